"""A worker as its supervisor sees it: a process, a socket, and the requests that run there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final, Protocol

import msgspec

from bridge.family.inflow import Inflow, Kind, News, Route
from bridge.wire.messages import RequestId

READ_BYTES: Final = 128 * 1024


class State(IntEnum):
    """Where a worker is in its life."""

    STARTING = 0  #: asked for, or forked and not yet heard of
    SPARE = 1  #: ready to take the place of one that ends
    SERVING = 2
    RETIRING = 3  #: takes nothing new
    LEAVING = 4  #: was told to end
    GONE = 5


class Home(Protocol):
    """What a child needs of its supervisor."""

    def relay(self, child: Child, news: News) -> bool:
        """Handle what a worker wrote; whether more may be read now."""

    def flush(self) -> None:
        """A worker that had not read goes on to."""

    def ended(self, child: Child) -> None:
        """A worker's socket is at its end."""


class Child:
    """One worker. Loop thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Home) -> None:
        self._loop = loop
        self._home = home
        self.state = State.STARTING
        self.pid: int | None = None
        #: A descriptor of the process, where the system has such a thing.
        self.pidfd: int | None = None
        self.inflow = Inflow()
        self.born = self.heard = loop.time()
        #: When a sign of life was asked for that has not come.
        self.asked: float | None = None
        #: Requests of the host: running here, ever taken, ended.
        self.load = self.taken = self.finished = 0
        #: Grows with each request given to any worker; here, what it was for the latest one.
        self.turn = 0
        #: Whether it takes requests although it is worn out, since nobody else can.
        self.recalled = False
        #: Whether it has said that it is ready.
        self.ready = False
        #: Calls that set state and have not been made here yet, and whether one is being made.
        self.behind: deque[tuple[str, Any]] = deque()
        self.catching_up = False
        #: Why it was killed, if it was.
        self.hung = False
        self._asked = 0
        self._out = bytearray()
        self._paused = True
        self._blocked = False
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.resume()

    # ---- out -----------------------------------------------------------------------------------

    def send(self, line: bytes) -> None:
        """Have ``line`` (without its LF) leave with the next :meth:`flush`."""
        self._out += line
        self._out += b"\n"

    def flush(self) -> None:
        """Write what can be written now."""
        while self._out and not self._blocked and self.state is not State.GONE:
            try:
                del self._out[: self._ours.send(self._out)]
            except BlockingIOError:
                self._blocked = True
                self._loop.add_writer(self._ours, self._writable)
            except OSError:  # it has died: the other direction tells
                self._out.clear()

    def _writable(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._ours)
        self.flush()
        self._home.flush()

    @property
    def unread(self) -> int:
        """Bytes that wait until it reads."""
        return len(self._out)

    def ask(
        self, command: str, args: Any, answer: Callable[[Mapping[str, Any] | None], None], name: RequestId
    ) -> None:
        """Make a request of the supervisor's own; ``answer`` gets the terminal chunk, or None on death."""
        self._asked += 1
        request_id = f"{name}:{self._asked}"
        self.inflow.add(Route(request_id, Kind.OWN, answer))
        self.send(msgspec.json.encode({"id": request_id, "command": command, "args": args}))
        self.flush()

    # ---- in ------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether nothing is read because the host does not read."""
        return self._paused

    def pause(self) -> None:
        """Read no more for now: what the worker writes stays in the socket, and then in the worker."""
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._ours)

    def resume(self) -> None:
        """Read again."""
        if self._paused and self.state is not State.GONE:
            self._paused = False
            self.heard = self._loop.time()
            self.asked = None
            self._loop.add_reader(self._ours, self.read)

    def read(self) -> bool:
        """Read one block; False when there was none."""
        try:
            data = self._ours.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.pause()
            self._home.ended(self)
            return False
        self.heard = self._loop.time()
        self.asked = None
        if not self._home.relay(self, self.inflow.feed(data)):
            self.pause()
        return True

    # ---- the process ---------------------------------------------------------------------------

    def forked(self, pid: int, pidfd: int | None) -> None:
        """It is the process ``pid`` now."""
        self.pid, self.pidfd = pid, pidfd
        self.theirs.close()
        self.born = self.heard = self._loop.time()

    @property
    def age(self) -> float:
        """Seconds since the fork."""
        return self._loop.time() - self.born

    def rss_bytes(self) -> int:
        """Its resident memory; 0 when that is not told."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def leave(self) -> None:
        """Have it end: it sees the end of its input, finishes what it has, and goes."""
        if self.state < State.LEAVING:
            self.state = State.LEAVING
            self.flush()
            with suppress(OSError):
                self._ours.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End the process at once. Not after :meth:`close`: its number may be another's by then."""
        if self.state is State.GONE:
            return
        with suppress(OSError):
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            elif self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of all that is held for it. A worker that lives sees its host gone and ends."""
        if self.state is State.GONE:
            return
        self.pause()
        self.state = State.GONE
        if self._blocked:
            self._loop.remove_writer(self._ours)
        self._ours.close()
        self.theirs.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
