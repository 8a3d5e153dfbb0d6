"""Driving a real worker over real pipes: what a host does, with a deadline on every wait."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.support.wirecheck import Checker, Chunk, Cutter, Key, frame, key_of

ROOT = Path(__file__).resolve().parents[2]
TEST_COMMANDS = "tests.support.commands"
#: Seconds any single wait may take: far more than a healthy worker needs on a busy machine.
PATIENCE = 40.0

_ErrorType = type[BaseException]  # Worker.type hides the built-in inside the class


class Ended(Exception):
    """The worker's stdout has ended before what was waited for."""


def command_line(*flags: str, commands: bool = True) -> list[str]:
    """The words that start a worker, with the test commands unless told otherwise."""
    extra = ["--commands", TEST_COMMANDS] if commands else []
    return [sys.executable, "-m", "bridge", "serve", *extra, *flags]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would change a worker's defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSPY_BRIDGE_")}
    return {**kept, **changes}


class Worker:
    """One worker process and its host's end of the pipes.

    Nothing is read before a method asks for it: a host that does not read is one that calls nothing.
    Every chunk that is read is checked by :class:`Checker`.
    """

    def __init__(
        self,
        *flags: str,
        framing: str = "lines",
        commands: bool = True,
        ready: bool = True,
        env: dict[str, str] | None = None,
        read_stderr: bool = True,
        argv: list[str] | None = None,
        cwd: str | Path = ROOT,
    ) -> None:
        self.framing = framing
        if framing != "lines":
            flags = ("--framing", framing, *flags)
        self.process = subprocess.Popen(
            argv or command_line(*flags, commands=commands),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment(**(env or {})),
            bufsize=0,
        )
        self.stdin, self.stdout, self.stderr = _open(self.process)
        self.received: list[Chunk] = []
        self.raw = bytearray()
        self._cutter = Cutter(framing)
        self._checker = Checker()
        self._unread: deque[Chunk] = deque()
        self._streams: dict[Key, list[Chunk]] = {}
        self._unbound: list[Chunk] = []
        self._ids = 0
        self._log = bytearray()
        self._log_thread = threading.Thread(target=self._drain_log, daemon=True)
        if read_stderr:
            self._log_thread.start()
        self.ready: Chunk = {}
        if ready:
            self.ready = self.next()
            assert self.ready["type"] == "ready", self.ready

    @property
    def pid(self) -> int:
        return self.process.pid

    # ---- writing -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        view = memoryview(data)
        deadline = time.monotonic() + PATIENCE
        while view:
            _, writable, _ = select.select([], [self.stdin], [], max(0.0, deadline - time.monotonic()))
            if not writable:
                raise TimeoutError(f"the worker took no input for {PATIENCE} s; {len(view)} bytes are left")
            view = view[os.write(self.stdin.fileno(), view[:4096]) :]

    def line(self, text: bytes | str) -> None:
        """One framed text, whatever is in it."""
        self.write(frame(text.encode() if isinstance(text, str) else text, self.framing))

    def send(self, **request: Any) -> None:
        """One request object as it is."""
        self.line(json.dumps(request))

    def request(self, command: str, args: Any = None, **envelope: Any) -> str | int:
        """A request with a fresh id unless ``id`` is given; gives the id."""
        if "id" not in envelope:
            self._ids += 1
            envelope["id"] = f"t{self._ids}"
        if args is not None:
            envelope["args"] = args
        self.send(command=command, **envelope)
        return envelope["id"]  # type: ignore[no-any-return]  # as the caller gave it

    def control(self, command: str, **args: Any) -> None:
        """A control command without an id of its own."""
        self.send(command=command, args=args)

    def close_stdin(self) -> None:
        self.stdin.close()

    # ---- reading -------------------------------------------------------------------------------

    def read_some(self, timeout: float = PATIENCE) -> bool:
        """Read what is there, waiting for it; False at the end of the worker's output."""
        readable, _, _ = select.select([self.stdout], [], [], max(0.0, timeout))
        if not readable:
            raise TimeoutError(
                f"no output for {timeout:.1f} s; the last chunks: {self.received[-3:]}; {self.log()}"
            )
        data = os.read(self.stdout.fileno(), 1 << 20)
        self.raw += data
        for text in self._cutter.feed(data):
            chunk = self._checker.parse(text)
            self.received.append(chunk)
            self._unread.append(chunk)
            if chunk["id"] is None:
                self._unbound.append(chunk)
            else:
                self._streams.setdefault(key_of(chunk["id"]), []).append(chunk)
        return bool(data)

    def next(self, timeout: float = PATIENCE) -> Chunk:
        """The next chunk, whoever it belongs to."""
        deadline = time.monotonic() + timeout
        while not self._unread:
            if not self.read_some(deadline - time.monotonic()):
                raise Ended(f"stdout ended; rest {self._cutter.rest[:200]!r}; log {self.log()}")
        return self._unread.popleft()

    def wait_for(self, wanted: Callable[[Chunk], bool], timeout: float = PATIENCE) -> Chunk:
        """The next chunk that is ``wanted``; those before it count as read."""
        deadline = time.monotonic() + timeout
        while not wanted(chunk := self.next(deadline - time.monotonic())):
            pass
        return chunk

    def type(self, kind: str, request_id: str | int | None = None, timeout: float = PATIENCE) -> Chunk:
        """The next chunk of that type (and of that request, if given)."""

        def wanted(chunk: Chunk) -> bool:
            return chunk["type"] == kind and (request_id is None or chunk["id"] == request_id)

        return self.wait_for(wanted, timeout)

    def collect(self, request_id: str | int, timeout: float = PATIENCE) -> list[Chunk]:
        """All chunks of a request up to and with its ``done``."""
        deadline = time.monotonic() + timeout
        key = key_of(request_id)
        while True:
            chunks = self._streams.get(key, [])
            ends = [at for at, chunk in enumerate(chunks) if "done" in chunk]
            if ends:
                self._streams[key] = chunks[ends[0] + 1 :]
                return chunks[: ends[0] + 1]
            if not self.read_some(deadline - time.monotonic()):
                raise Ended(f"stdout ended before {request_id!r} was done: {chunks[-3:]}; {self.log()}")

    def stream(self, command: str, args: Any = None, **envelope: Any) -> list[Chunk]:
        """One request and all its chunks."""
        return self.collect(self.request(command, args, **envelope))

    def call(self, command: str, args: Any = None, **envelope: Any) -> Chunk:
        """One request and its terminal chunk."""
        return self.stream(command, args, **envelope)[-1]

    def bad_line(self, timeout: float = PATIENCE) -> Chunk:
        """The next chunk with the id null (an error about a line)."""
        deadline = time.monotonic() + timeout
        self._unbound = [chunk for chunk in self._unbound if chunk["type"] not in ("ready", "bye")]
        while not self._unbound:
            if not self.read_some(deadline - time.monotonic()):
                raise Ended(f"stdout ended; {self.log()}")
            self._unbound = [chunk for chunk in self._unbound if chunk["type"] not in ("ready", "bye")]
        return self._unbound.pop(0)

    def rest(self, timeout: float = PATIENCE) -> list[Chunk]:
        """Everything up to the end of the worker's output."""
        deadline = time.monotonic() + timeout
        while self.read_some(deadline - time.monotonic()):
            pass
        chunks = list(self._unread)
        self._unread.clear()
        assert not self._cutter.rest, f"the output ends inside a chunk: {self._cutter.rest[:200]!r}"
        return chunks

    def sync(self) -> None:
        """Come back when everything written so far has been read by the worker."""
        assert self.call("ping")["type"] in ("pong", "error")

    def idle(self) -> bool:
        """Whether the next test may use this worker: it lives, and all its requests have ended."""
        return self.process.poll() is None and not self.stdin.closed and self._checker.idle()

    def forget(self) -> None:
        """Begin anew, as far as what was received is concerned."""
        self.received, self._unread, self._streams, self._unbound = [self.ready], deque(), {}, []

    # ---- the process ---------------------------------------------------------------------------

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def end(self, timeout: float = PATIENCE) -> tuple[list[Chunk], int]:
        """Close stdin; what still came and the exit code."""
        self.close_stdin()
        return self.rest(timeout), self.wait(timeout)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def log(self) -> str:
        """What the worker has written to stderr so far."""
        if not self._log_thread.is_alive() and self._log_thread.ident is not None:
            self._log_thread.join()
        return self._log.decode(errors="replace")

    def final_log(self, timeout: float = PATIENCE) -> str:
        """All of stderr, once the process has ended."""
        self._log_thread.join(timeout)
        return self.log()

    def _drain_log(self) -> None:
        while True:
            try:
                data = os.read(self.stderr.fileno(), 65536)
            except (OSError, ValueError):
                return
            if not data:
                return
            self._log += data

    def close(self) -> None:
        """End the process, whatever it does, and give back every descriptor."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._log_thread.ident is not None:
            self._log_thread.join(1)
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: _ErrorType | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr


def run(data: bytes, *flags: str, commands: bool = True, env: dict[str, str] | None = None) -> Finished:
    """A worker fed ``data`` and then EOF, as a shell pipe does; everything it wrote, checked."""
    done = subprocess.run(
        command_line(*flags, commands=commands),
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment(**(env or {})),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


class Finished:
    """The output of a worker that has ended."""

    def __init__(self, code: int, stdout: bytes, log: str) -> None:
        self.code = code
        self.stdout = stdout
        self.log = log

    def chunks(self, framing: str = "lines") -> list[Chunk]:
        """What it wrote."""
        checker, cutter = Checker(), Cutter(framing)
        chunks = [checker.parse(text) for text in cutter.feed(self.stdout)]
        assert not cutter.rest
        return chunks


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def wait_gone(pid: int, timeout: float) -> float:
    """Seconds until a process, no child of ours, has ended.

    :raises TimeoutError: when it has not within ``timeout``.
    """
    begin = time.monotonic()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0.0
    try:
        readable, _, _ = select.select([fd], [], [], timeout)
    finally:
        os.close(fd)
    if not readable:
        raise TimeoutError(f"process {pid} is still there after {timeout} s")
    return time.monotonic() - begin


def types(chunks: Iterable[Chunk]) -> list[str]:
    """The chunks' types, in order."""
    return [chunk["type"] for chunk in chunks]


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
