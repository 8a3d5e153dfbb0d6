"""The two ends of the pipe: a source of bytes and a sink for bytes, on one event loop.

Pipes and sockets are polled by the loop: pipes through a description of our own (reopened, so that
O_NONBLOCK touches nobody else's), sockets with MSG_DONTWAIT. Regular files, terminals, devices, and
pipes that can not be reopened get a thread with blocking calls instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from typing import Final, Protocol

READ_BYTES: Final = 64 * 1024
PIPE_BYTES: Final = 1024 * 1024


class Source(Protocol):
    """Where requests come from: calls back with bytes, and once with ``b""`` at the end."""

    def start(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def waits(self) -> bool:
        """Whether bytes are there that the loop would take if it got the turn."""


class Sink(Protocol):
    """Where chunks go."""

    #: Whether bytes that were taken are still on their way.
    busy: bool
    #: Why bytes that were taken could not be written after all.
    error: OSError | None

    def write(self, data: memoryview) -> int:
        """How many bytes were taken; 0 means: wait for ``on_writable``.

        :raises OSError: when nobody reads any more.
        """

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called, once, as soon as bytes can be taken again."""


def open_source(loop: asyncio.AbstractEventLoop, fd: int, on_data: Callable[[bytes], None]) -> Source:
    """The source for what ``fd`` is."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        connection = _private_socket(fd)
        return PolledSource(loop, connection.fileno(), lambda: _receive(connection), on_data)
    if stat.S_ISFIFO(mode) and (private := _reopen(fd, os.O_RDONLY)) is not None:
        hung_up = _hung_up(fd)
        return PolledSource(loop, private, lambda: os.read(private, READ_BYTES), on_data, hung_up=hung_up)
    return ThreadedSource(loop, fd, on_data)


def open_sink(loop: asyncio.AbstractEventLoop, fd: int) -> Sink:
    """The sink for what ``fd`` is."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        connection = _private_socket(fd)
        return PolledSink(loop, connection.fileno(), lambda data: connection.send(data, socket.MSG_DONTWAIT))
    if stat.S_ISFIFO(mode) and (private := _reopen(fd, os.O_WRONLY)) is not None:
        return PolledSink(loop, private, lambda data: os.write(private, data))
    return ThreadedSink(loop, fd)


def _private_socket(fd: int) -> socket.socket:
    connection = socket.socket(fileno=os.dup(fd))
    os.register_at_fork(after_in_child=connection.close)
    return connection


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(READ_BYTES, socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return b""


def _reopen(fd: int, flags: int) -> int | None:
    """A non-blocking description of our own for the pipe behind ``fd``, and a larger buffer for it."""
    try:
        private = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    os.register_at_fork(after_in_child=lambda: os.close(private))
    with contextlib.suppress(OSError):  # over the user's quota for pipes: only slower
        fcntl.fcntl(private, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return private


def _hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


class PolledSource:
    """Reads when the loop says that bytes are there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        read: Callable[[], bytes],
        on_data: Callable[[bytes], None],
        *,
        hung_up: bool = False,
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._read = read
        self._on_data = on_data
        # A pipe whose writers were all gone before it was reopened never polls as hung up again: it
        # must be read to its end without being asked.
        self._hung_up = hung_up
        self._reading = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def start(self) -> None:
        self.resume()

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if self._hung_up:
            self._reading = True
            self._loop.call_soon(self._read_on)
        elif not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._ready)

    def waits(self) -> bool:
        return self._reading and bool(self._poll.poll(0))

    def _ready(self) -> None:
        try:
            data = self._read()
        except BlockingIOError:
            return
        if not data:
            self.pause()
        self._on_data(data)

    def _read_on(self) -> None:
        if not self._reading:
            return
        try:
            data = self._read()
        except BlockingIOError:  # a named pipe, and somebody has opened it again: now it polls
            self._hung_up = self._reading = False
            self.resume()
            return
        if data:
            self._loop.call_soon(self._read_on)
        else:
            self._hung_up = self._reading = False
        self._on_data(data)


class ThreadedSource:
    """Reads in a daemon thread, one block ahead of what the loop has taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, on_data: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._on_data = on_data
        self._wanted = threading.Semaphore(1)
        self._flowing = True
        self._held: list[bytes] = []

    def start(self) -> None:
        threading.Thread(target=self._run, name="bridge-stdin", daemon=True).start()

    def pause(self) -> None:
        self._flowing = False

    def resume(self) -> None:
        self._flowing = True
        while self._held and self._flowing:
            self._take(self._held.pop(0))

    def waits(self) -> bool:
        return False  # the thread has handed over what there was: the loop's turn tells

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            try:
                data = os.read(self._fd, READ_BYTES)
            except OSError:
                data = b""  # EIO: the terminal is gone
            self._loop.call_soon_threadsafe(self._arrived, data)
            if not data:
                return

    def _arrived(self, data: bytes) -> None:
        if self._flowing:
            self._take(data)
        else:
            self._held.append(data)

    def _take(self, data: bytes) -> None:
        self._wanted.release()
        self._on_data(data)


class PolledSink:
    """Writes at once; where the kernel's buffer is full, the loop says when to go on."""

    busy = False
    error: OSError | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, write: Callable[[memoryview], int]) -> None:
        self._loop = loop
        self._fd = fd
        self._write = write

    def write(self, data: memoryview) -> int:
        try:
            return self._write(data)
        except BlockingIOError:
            return 0

    def when_writable(self, callback: Callable[[], None]) -> None:
        def ready() -> None:
            self._loop.remove_writer(self._fd)
            callback()

        self._loop.add_writer(self._fd, ready)


class ThreadedSink:
    """Writes in a daemon thread with blocking calls; takes one block at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._block = b""
        self._full = threading.Semaphore(0)
        self.error: OSError | None = None
        self.busy = False
        self._callback: Callable[[], None] | None = None
        threading.Thread(target=self._run, name="bridge-stdout", daemon=True).start()

    def write(self, data: memoryview) -> int:
        if self.error is not None:
            raise self.error
        if self.busy:
            return 0
        self.busy = True
        self._block = bytes(data)
        self._full.release()
        return len(self._block)

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if not self.busy:
            self._written()

    def _run(self) -> None:
        while True:
            self._full.acquire()
            rest = memoryview(self._block)
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError as error:
                self.error = error
            self._loop.call_soon_threadsafe(self._written)

    def _written(self) -> None:
        self.busy = False
        self._block = b""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
