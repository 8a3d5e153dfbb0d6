"""The process of an MCP server: lines in and out, its stderr in the log, and an end it can not refuse."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, cast

from bridge import children

#: Longest message of a server, in bytes.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
#: Longest line of a server's stderr that is logged, in bytes; the rest of a longer one is dropped.
MAX_LOG_BYTES: Final = 2000
#: How long, in seconds, after it closed its output a process may take to exit before that is told instead.
EXIT_S: Final = 0.5

_log = logging.getLogger("bridge.mcp")


class Unusable(Exception):
    """A server can not be used. The message goes on where ``The MCP server 'x'`` stops."""


class ServerProcess(asyncio.SubprocessProtocol):
    """A running server. Made by :func:`start`.

    ``on_line`` gets each line of its stdout; ``on_end`` is called once nothing can be said or heard any more.
    """

    def __init__(self, name: str, on_line: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._name = name
        self._on_line = on_line
        self._on_end = on_end
        self._output = _Lines(MAX_MESSAGE_BYTES)
        self._log_lines = _Lines(MAX_LOG_BYTES)
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()

    def write(self, line: bytes) -> None:
        """Send a line (without its LF)."""
        self._stdin.write(line + b"\n")

    async def fate(self) -> str:
        """How it has ended, once that is known: ``exited with code 3``."""
        await asyncio.wait({self._exited}, timeout=EXIT_S)
        code = self._transport.get_returncode()
        if self._output.overflowed:
            return f"sent a message of more than {MAX_MESSAGE_BYTES // 2**20} MB"
        if code is None:
            return "closed its input or output"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    async def end(self, within_s: float) -> None:
        """Close its stdin, and send what then is left of its process group SIGTERM, and then SIGKILL."""
        if not self._stdin.is_closing():
            self._stdin.abort()
        for share, number in ((0.25, signal.SIGTERM), (0.5, signal.SIGKILL), (0.25, None)):
            await asyncio.wait({self._gone}, timeout=within_s * share)
            if self._gone.done():
                break
            if number is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._transport.get_pid(), number)
        self._transport.close()  # also when something that has left the group still holds its pipes

    # ---- called by the loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        children.groups.add(self._transport.get_pid())

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        if fd == 2:
            for line in self._log_lines.feed(data):
                self._say(line)
            return
        for line in self._output.feed(data):
            if line.strip():
                self._on_line(line)
        if self._output.overflowed:
            self._on_end()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 2:
            self._say(self._log_lines.rest())
        else:
            self._on_end()

    def process_exited(self) -> None:
        self._exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has exited, and nothing it left behind holds its pipes."""
        children.groups.discard(self._transport.get_pid())
        self._gone.set_result(None)

    def _say(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            _log.info("%s: %s", self._name, text)


class _Lines:
    """Cuts bytes into lines; of one longer than ``limit`` only its beginning is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._part = bytearray()
        self.overflowed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` ends."""
        *ends, part = data.split(b"\n")
        lines = []
        for end in ends:
            self._add(end)
            lines.append(self.rest())
        self._add(part)
        return lines

    def rest(self) -> bytes:
        """The line that has not ended."""
        line = bytes(self._part)
        self._part.clear()
        return line

    def _add(self, data: bytes) -> None:
        room = self._limit - len(self._part)
        self.overflowed = self.overflowed or len(data) > room
        self._part += data[:room]


async def start(
    name: str,
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    on_line: Callable[[bytes], None],
    on_end: Callable[[], None],
) -> ServerProcess:
    """Start a server's process.

    Raises:
        Unusable: there is no such command, or it can not be run.
    """
    loop = asyncio.get_running_loop()
    command = os.path.basename(argv[0])
    try:
        # In a session of its own: ctrl-C in the worker's terminal is not for it, and it ends as a group.
        _, process = await loop.subprocess_exec(
            lambda: ServerProcess(name, on_line, on_end), *argv, env=environment, start_new_session=True
        )
    except FileNotFoundError:
        raise Unusable(
            f"can not be started: there is no command {command!r}. Install it, or correct --mcp"
        ) from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "it can not be run").lower()
        raise Unusable(f"can not be started: {command!r}: {reason}. Correct --mcp") from None
    return process
