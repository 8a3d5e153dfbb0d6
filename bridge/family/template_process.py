"""The template as its supervisor sees it: starting it, asking it for workers, hearing of their ends."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from bridge.cli.usage import Usage
from bridge.family import VARIABLE
from bridge.family.messages import ADOPT, FIRST_BYTES, FORK, MESSAGE_BYTES, Report, receive

_decode: Final = msgspec.json.Decoder(Report).decode


class TemplateProcess:
    """A running template. It is this very command line, started again and told by the environment to be one:
    so it finds the same modules, whatever way the supervisor was started.

    :raises Usage: where the system can not have one.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise Usage("--workers: several workers need Linux.")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            environment = {**os.environ, VARIABLE: str(theirs.fileno())}
            words = [sys.executable, *sys.orig_argv[1:]]
            self.pid = os.posix_spawn(sys.executable, words, environment)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._size = FIRST_BYTES

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_report: Callable[[Report, int | None], None],
        on_end: Callable[[int], None],
    ) -> None:
        """Call ``on_report(report, pidfd)`` for what it tells, ``on_end(exit code)`` once it has ended."""
        self._control.setblocking(False)
        self._loop = loop
        self._on_report, self._on_end = on_report, on_end
        loop.add_reader(self._control, self._read)

    def fork(self, fd: int) -> None:
        """Ask for a worker on the socket ``fd``; ``born`` is the answer. One at a time."""
        self._send(FORK, fd)

    def adopt(self, pidfd: int) -> None:
        """Have it see to the end of a worker that an earlier one has forked."""
        self._send(ADOPT, pidfd)

    def _send(self, message: bytes, fd: int) -> None:
        with suppress(OSError):  # it is at its end: that is told soon
            socket.send_fds(self._control, [message], [fd])

    def close(self) -> None:
        """Let it go: it ends, and before it the workers that have not ended."""
        if self._loop is not None:
            self._loop.remove_reader(self._control)
        self._control.close()

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)  # not waited for, so the number is its own

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, which is the end of all workers."""
        with suppress(OSError, AttributeError):
            pidfd = os.pidfd_open(self.pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(timeout_s * 1000)
            os.close(pidfd)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # in a container there may be nobody else to do so

    def _read(self) -> None:
        try:
            message, pidfd = receive(self._control, self._size)
        except BlockingIOError:
            return
        self._size = MESSAGE_BYTES
        if message:
            self._on_report(_decode(message), pidfd)
            return
        self.close()
        _, status = os.waitpid(self.pid, 0)  # its socket is closed: it is ending, or has ended
        self._on_end(os.waitstatus_to_exitcode(status))
