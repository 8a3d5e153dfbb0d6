"""A child process on two pipes, read faster than it can write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Self

import orjson

ROOT: Final = Path(__file__).resolve().parents[2]
PIPE_BYTES: Final = 1024 * 1024
TAIL_BYTES: Final = 4096
#: Longer than this without a byte is a failure, not a measurement.
PATIENCE_S: Final = 60.0
#: The floors of every start: what the worker needs before it can say that it is ready, and before it can
#: do anything.
BARE_READY: Final = [sys.executable, "-c", "import msgspec, os; os.write(1, b'\\n'); os.read(0, 1)"]
BARE_START: Final = [
    sys.executable,
    "-c",
    "import asyncio, orjson, msgspec, os; os.write(1, b'\\n'); os.read(0, 1)",
]


def worker(*flags: str) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "bridge", *(("serve", *flags) if flags else ())]


def floor(*words: str) -> list[str]:
    """The command line of a floor."""
    return [sys.executable, "-m", "tests.benchmarks.floors", *words]


def bench_worker(*flags: str) -> Child:
    """A worker with the benchmarks' commands, past its start: half of that comes after ``ready``."""
    child = Child(worker("--commands", "tests.benchmarks.commands", *flags))
    child.request("ping")
    child.lines(2)
    return child


class Child:
    """A process with its pipes; ``with`` ends it."""

    def __init__(self, argv: list[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit, with the pipes
        self.argv = argv
        # With bytecode, as an installed worker has it and as the floors' modules have theirs.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            bufsize=0,
            env=env,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin = self.process.stdin.fileno()
        self._stdout = self.process.stdout.fileno()
        with contextlib.suppress(OSError):  # the worker asks for the same
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.block = bytearray(PIPE_BYTES)
        #: The last bytes that were read, across blocks.
        self.tail = b""
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def send(self, data: bytes) -> None:
        """Write all of ``data``; waits for a child that is slow to read."""
        while data:
            data = data[os.write(self._stdin, data) :]

    def request(self, command: str, args: dict[str, object] | None = None, **fields: object) -> None:
        """Send one request (id ``r1`` unless given)."""
        self.send(request_line(command, args, **fields))

    def has_output(self, timeout_s: float) -> bool:
        """Whether there is something to read within ``timeout_s``."""
        return bool(self._poll.poll(timeout_s * 1000))

    def take(self) -> int:
        """Read what is there into :attr:`block`; how many bytes. Waits for the first.

        :raises RuntimeError: the child has ended or says nothing.
        """
        if not self.has_output(PATIENCE_S):
            raise RuntimeError(f"{self.argv[1:]} says nothing: {self.errors()}")
        size = os.readv(self._stdout, [self.block])
        if not size:
            raise RuntimeError(f"{self.argv[1:]} has ended: {self.errors()}")
        last = self.block[max(0, size - TAIL_BYTES) : size]
        self.tail = (self.tail + last)[-TAIL_BYTES:] if size < TAIL_BYTES else bytes(last)
        return size

    def lines(self, count: int, *, grant: int = 0) -> None:
        """Read ``count`` lines, which must be all there is.

        ``grant``: send credit for ``r1`` after each so many lines.
        """
        seen = granted = 0
        while seen < count:
            size = self.take()
            seen += self.block.count(b"\n", 0, size)
            if grant and seen - granted >= grant:
                self.request("credit", {"target": "r1", "n": seen - granted}, id=None)
                granted = seen
        assert seen == count, f"{seen} lines instead of {count}"

    def timed_lines(self, line: bytes, count: int, *, grant: int = 0) -> float:
        """Send ``line``, read ``count`` lines; seconds from the one to the other."""
        started = time.perf_counter()
        self.send(line)
        self.lines(count, grant=grant)
        return time.perf_counter() - started

    def rss_mb(self) -> float:
        """Resident memory, in MB (10^6 bytes)."""
        return rss_mb(self.process.pid)

    def cpu_s(self) -> float:
        """Processor time used so far, in seconds."""
        return cpu_s(self.process.pid)

    def errors(self) -> str:
        """What it has said on stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    """Processor time of a process, in seconds, threads that have ended included.

    The clock's number is what ``clock_getcpuclockid(3)`` gives on Linux (CPUCLOCK_SCHED is 2).
    """
    return time.clock_gettime(~pid << 3 | 2)


def request_line(command: str, args: dict[str, object] | None = None, **fields: object) -> bytes:
    """One request as a line; ``id`` is ``r1`` unless given, and left out when None."""
    line = {"id": "r1", "command": command, "args": args or {}, **fields}
    return orjson.dumps({name: value for name, value in line.items() if value is not None}) + b"\n"
