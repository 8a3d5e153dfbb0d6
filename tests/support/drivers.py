"""The programs that drive the clients for the tests. tests/conformance/README.md has their protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.worker import PATIENCE, ROOT, environment, wait_gone

Event = dict[str, Any]

_DRIVERS = "tests/clients/drivers"
#: The command line of each driver, from the repository's root.
COMMANDS = {
    "python": [sys.executable, f"{_DRIVERS}/python.py"],
    "node": ["node", f"{_DRIVERS}/node.mjs"],
    "elixir": ["elixir", f"{_DRIVERS}/elixir.exs"],
    "erlang": ["escript", f"{_DRIVERS}/erlang.escript"],
}
#: Who speaks which framing.
FRAMINGS = [
    ("python", "lines"),
    ("node", "lines"),
    ("elixir", "lines"),
    ("elixir", "packet4"),
    ("erlang", "lines"),
    ("erlang", "packet4"),
]
#: What a client has not, of what cases need. A port of the BEAM asked for the exit status tells of an
#: end when the process has exited and its stdout is closed: the one without the other is half an end.
LACKS = {"elixir": ("half ends",), "erlang": ("half ends", "pool")}
_ENDS_S = 10.0


class DriverFailed(AssertionError):
    """The driver did not do what its protocol says."""


class Driver:
    """A driver process. Operations go in, events come out and are kept by their ``ref``."""

    def __init__(self, argv: Sequence[str]) -> None:
        if shutil.which(argv[0]) is None:
            raise DriverFailed(f"{argv[0]} is missing. On Debian, .ci/tools installs all that the tests need")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment(),
        )
        self._errors_from = 0
        self._events: dict[str, deque[Event]] = defaultdict(deque)
        self._wrong: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._refs = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # ---- operations ----------------------------------------------------------------------------

    def do(self, op: str, ref: str = "", **fields: Any) -> str:
        """Begin an operation; gives its ref, a new one unless it is given."""
        if not ref:
            self._refs += 1
            ref = f"{op}{self._refs}"
        assert self.process.stdin is not None
        line = json.dumps({"op": op, "ref": ref, **fields}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise DriverFailed(f"the driver takes no {op} any more: {self.errors()}") from error
        return ref

    def event(self, ref: str, timeout: float = PATIENCE) -> Event:
        """The next event of a ref."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._events[ref]:
                left = deadline - time.monotonic()
                if self._wrong:
                    raise DriverFailed(f"the driver wrote no event: {self._wrong[0][:300]}")
                if self._ended:
                    raise DriverFailed(f"the driver has ended before an event for {ref!r}: {self.errors()}")
                if left <= 0:
                    raise DriverFailed(f"no event for {ref!r} came within {timeout:g} s; {self.errors()}")
                self._changed.wait(left)
            return self._events[ref].popleft()

    def wait_for(self, ref: str, timeout: float) -> bool:
        """Whether an event of a ref is there, or came within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._events[ref]) or self._ended, timeout)

    def ask(self, op: str, timeout: float = PATIENCE, **fields: Any) -> Event:
        """One operation and its next event."""
        return self.event(self.do(op, **fields), timeout)

    def leftover(self, ref: str) -> list[Event]:
        """Events of a ref that nobody has asked for yet."""
        with self._changed:
            return list(self._events[ref])

    # ---- operations as tests use them ----------------------------------------------------------

    def start(self, argv: Sequence[str], **fields: Any) -> None:
        """A client of the worker ``argv``, ready."""
        self.expect("started", self.ask("start", argv=list(argv), **fields))

    def stop(self, timeout: float = PATIENCE) -> None:
        """The end of the client and of its workers."""
        self.expect("stopped", self.ask("stop", timeout=timeout))

    def call(self, command: str, args: Any = None, timeout: float = PATIENCE, **fields: Any) -> Event:
        """The chunk that a call ends with."""
        event = self.ask("call", timeout, command=command, args=args or {}, **fields)
        chunk: Event = self.expect("result", event)["chunk"]
        return chunk

    def stream(self, command: str, args: Any = None, **fields: Any) -> str:
        """Begin a stream whose chunks are counted unless told otherwise; gives its ref."""
        return self.do("stream", command=command, args=args or {}, **{"report": "count", **fields})

    def pids(self) -> list[int]:
        """The workers that are up."""
        found: list[int] = self.expect("pids", self.ask("pids"))["pids"]
        return found

    def kill_worker(self, pid: int) -> None:
        """End one of the workers as the kernel does, and see it gone."""
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid, PATIENCE)

    def expect(self, kind: str, event: Event) -> Event:
        """``event``, which must be of that kind."""
        if event.get("event") != kind:
            raise DriverFailed(f"{kind} was expected, not {json.dumps(event)[:400]}; {self.errors()}")
        return event

    # ---- the process ---------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether it lives and has kept to its protocol."""
        return self.process.poll() is None and not self._wrong and not self._ended

    def memory_mb(self, workers: Sequence[int]) -> float:
        """Resident memory of the biggest process of the runtime, the workers left out."""
        root = psutil.Process(self.process.pid)
        sizes = []
        for process in [root, *root.children(recursive=True)]:
            try:
                if process.pid not in workers:
                    sizes.append(process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return max(sizes, default=0) / 2**20

    def errors(self) -> str:
        """The end of what it, its runtime and its workers have said on stderr."""
        if self._errors.closed:
            return ""
        size = os.fstat(self._errors.fileno()).st_size
        begin = max(self._errors_from, size - 1500)
        text = os.pread(self._errors.fileno(), size - begin, begin).decode(errors="replace").strip()
        return f"stderr: {text}" if text else "nothing on stderr"

    def forget_errors(self) -> None:
        """Tell of stderr only what comes from now on."""
        self._errors_from = os.fstat(self._errors.fileno()).st_size

    def end(self, timeout: float = _ENDS_S) -> int:
        """Close stdin, as one who is done does; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout)

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.process.poll() is None:
            try:
                self.end()
            except (subprocess.TimeoutExpired, OSError):
                self.process.kill()
        self.process.wait()
        self._reader.join(_ENDS_S)
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # an operation that was not taken
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
                ref = event["ref"]
                assert isinstance(ref, str)
            except (ValueError, LookupError, TypeError, AssertionError):
                with self._changed:
                    self._wrong.append(line.decode(errors="replace"))
                    self._changed.notify_all()
                continue
            with self._changed:
                self._events[ref].append(event)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


#: Starts a client of our own worker in a driver's process.
Start = Callable[..., Driver]


class Drivers:
    """One process a language, kept between tests: a virtual machine takes its time to start."""

    def __init__(self) -> None:
        self._kept: dict[str, Driver] = {}

    def get(self, name: str) -> Driver:
        """The driver of that language; a new one when the last does not live or was given up."""
        driver = self._kept.get(name)
        if driver is None or not driver.usable:
            self.give_up(name)
            driver = self._kept[name] = Driver(COMMANDS[name])
        return driver

    def give_up(self, name: str) -> None:
        """End the driver: nobody knows what state it is in."""
        if driver := self._kept.pop(name, None):
            driver.close()

    def close(self) -> None:
        """End them all."""
        for name in list(self._kept):
            self.give_up(name)
