"""A worker process on asyncio's pipes: bytes in, bytes out, and one report of its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final, cast

#: Seconds for the exit code after the end of output, and for the rest of the output after the exit: a
#: child of the worker's may hold the pipe for as long as it likes.
STATUS_S: Final = 0.2
REST_S: Final = 1.0
STDIN: Final = 0
STDOUT: Final = 1


class Options:
    """How workers are started: the command line, what is added to the environment, the folder, where the log
    goes (None: to this process's stderr; a file or its descriptor, or ``subprocess.DEVNULL``), and seconds
    until ``ready``.

    Raises:
        TypeError: a word of the command line or of the environment is none.
        ValueError: ``stderr`` is a pipe, which nobody would read, or stdout.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stderr: int | IO[Any] | None = None,
        ready_timeout: float = 30.0,
    ) -> None:
        self.argv = [os.fspath(word) for word in argv]
        self.env = None if env is None else {os.fspath(name): os.fspath(value) for name, value in env.items()}
        self.cwd = cwd
        if stderr in (subprocess.PIPE, subprocess.STDOUT):
            raise ValueError("stderr is None, a file, or subprocess.DEVNULL")
        self.stderr = stderr
        self.ready_timeout = ready_timeout


class Process(asyncio.SubprocessProtocol):
    """``on_data`` gets what the worker writes, ``on_end`` its exit code (None: it closed its output and may
    run on) once, after the last of it.
    """

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[int | None], None]) -> None:
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._pidfd: int | None = None
        self._ended = False
        self._exited = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    async def spawn(self, options: Options) -> None:
        """Start the command line.

        Raises:
            OSError: it can not be started.
        """
        await self._loop.subprocess_exec(
            lambda: self,
            *options.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=options.stderr,
            env=None if options.env is None else {**os.environ, **options.env},
            cwd=options.cwd,
            # A terminal's ctrl-C is the host's to handle; the worker would stop before it is told to.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process's id; 0 before it is started."""
        return self._transport.get_pid() if self._transport else 0

    def write(self, data: bytes) -> None:
        """Write ``data`` as soon as the pipe takes it; dropped if the worker has ended."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)

    def close_stdin(self) -> None:
        """End the worker's input."""
        if self._stdin is not None:
            self._stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        # Not by the transport: its kill() looks for the exit code first and would take it from the watcher
        # that waits for it.
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):  # the watcher was faster
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self, timeout: float) -> bool:
        """Whether a process that was started has ended within ``timeout`` seconds."""
        if self._transport is not None and not self._exited.done():
            await asyncio.wait([self._exited], timeout=timeout)
        return self._exited.done()

    def close(self) -> None:
        """Give the pipes back, killing the process if it still runs."""
        if self._transport is not None:
            self._transport.close()

    # ---- what asyncio calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Casts, since other event loops' transports need not derive from asyncio's classes.
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(STDIN))
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._pidfd = os.pidfd_open(self._transport.get_pid())

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == STDOUT and not self._ended:
            self._on_data(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd != STDOUT:
            return
        if self._exited.done():
            self._end()
        else:
            self._end_in(STATUS_S)

    def process_exited(self) -> None:
        assert self._transport is not None
        self._exited.set_result(None)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        stdout = self._transport.get_pipe_transport(STDOUT)
        if stdout is None or self._timer is not None:
            self._end()
        else:
            self._end_in(REST_S)

    def _end_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._end)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        assert self._transport is not None
        self._on_end(self._transport.get_returncode())


def how_it_ended(code: int | None) -> tuple[str, dict[str, Any]]:
    """An exit code in words, and as error details."""
    if code is None:
        return "closed its output", {}
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}", {"signal": name}
    return f"ended with exit code {code}", {"exit_code": code}
