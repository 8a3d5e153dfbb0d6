"""One worker process seen from its host: lines in, lines out, and a clean end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

#: How long a worker may take to leave, in seconds, before it is killed.
LEAVE_S = 2.0


class WorkerDied(Exception):
    """The worker went away before it had answered."""


class Line(NamedTuple):
    """A line of the worker's stdout: its bytes, LF included, and the chunk it holds."""

    raw: bytes
    chunk: dict[str, Any]


class WorkerProcess:
    """A worker spawned with ``flags`` for ``serve``; each line of its stderr goes to ``on_log``.

    ``ready`` is its first chunk. Use as a context manager: leaving it ends the process.
    """

    def __init__(self, flags: Sequence[str], on_log: Callable[[str], None]) -> None:
        self.ready: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "serve", "--log-format", "text", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A terminal's ctrl-C must reach only this process, which then cancels: the worker would drain.
            process_group=0,
        )
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._log = threading.Thread(target=self._forward_log, args=(on_log,), daemon=True)
        self._log.start()

    def __enter__(self) -> WorkerProcess:
        try:
            self.ready = self._first().chunk
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def returncode(self) -> int | None:
        """The exit code once the process has ended."""
        return self._process.poll()

    def send(self, request: Mapping[str, Any]) -> None:
        """Write one request. Raises WorkerDied when nobody reads it."""
        line = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        try:
            self._stdin.write(line + b"\n")
            self._stdin.flush()
        except (BrokenPipeError, ValueError):
            raise WorkerDied(self._obituary()) from None

    def lines(self) -> Iterator[Line]:
        """The worker's lines until it closes stdout, without ``bye``."""
        for raw in iter(self._stdout.readline, b""):
            chunk = json.loads(raw)
            if chunk.get("type") != "bye":
                yield Line(raw, chunk)

    def answers(self, request_id: str) -> Iterator[Line]:
        """The chunks of one request up to its last, errors about its line included.

        Raises WorkerDied when the worker ends before that.
        """
        for line in self.lines():
            mine = line.chunk.get("id") == request_id
            # An error that belongs to no request is about the only line that was sent.
            orphan = line.chunk.get("id") is None and line.chunk.get("type") == "error"
            if mine or orphan:
                yield line
            if orphan or (mine and line.chunk.get("done")):
                return
        raise WorkerDied(self._obituary())

    def ask(self, command: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and give its last chunk. Raises WorkerDied."""
        self.send({"id": command, "command": command, "args": args or {}})
        return list(self.answers(command))[-1].chunk

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def stop(self) -> int:
        """Have the process leave, by force if it must be, and give its exit code."""
        with contextlib.suppress(WorkerDied):
            self.send({"command": "shutdown", "args": {"mode": "abort"}})
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        # Read to the end: to a worker that is leaving, a closed stdout would be a host that died.
        overdue = threading.Timer(LEAVE_S, self.kill)
        overdue.start()
        while self._stdout.read(65536):
            pass
        overdue.cancel()
        self._stdout.close()
        code = self._process.wait()
        self._log.join(LEAVE_S)
        return code

    def _first(self) -> Line:
        for line in self.lines():
            if line.chunk.get("type") == "ready":
                return line
        raise WorkerDied(self._obituary("The worker did not start"))

    def _obituary(self, what: str = "The worker ended before it had answered") -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_S)
        self._log.join(LEAVE_S)
        code = self.returncode
        if code is None:
            return f"{what}."
        return f"{what} ({f'killed by signal {-code}' if code < 0 else f'exit code {code}'})."

    def _forward_log(self, on_log: Callable[[str], None]) -> None:
        with self._stderr as stderr:
            for raw in stderr:
                on_log(raw.decode("utf-8", "replace").rstrip("\r\n"))
