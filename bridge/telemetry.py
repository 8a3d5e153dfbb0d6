"""Logs that can not block the worker, and the counters that ``stats`` shows."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter, deque
from typing import Any, Final

import orjson

from bridge.redact import redact, redact_secrets
from bridge.wire.messages import Final_

#: Records that may wait for a stderr that is not read; the oldest beyond that are dropped.
MAX_WAITING: Final = 4096
MAX_MESSAGE_CHARS: Final = 16_384
_ESCAPES: Final = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"})


class LogWriter:
    """Writes log lines to a descriptor from a daemon thread.

    A host that never reads stderr must not stop the worker: the queue is bounded and drops its oldest.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.renew(threaded=True)

    def renew(self, *, threaded: bool) -> None:
        """Begin anew, as in a forked child. Not ``threaded``: lines are written at once, with no thread that
        a fork would lose."""
        self._threaded = threaded
        self._lines: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._ready = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._started = False
        #: Lines that were lost because nobody read stderr.
        self.dropped = 0

    def put(self, line: bytes) -> None:
        """Queue a line (with its LF); never blocks."""
        if not self._threaded:
            self._write([line])
            return
        if len(self._lines) == MAX_WAITING:
            self.dropped += 1
        self._idle.clear()
        self._lines.append(line)
        self._ready.set()
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="bridge-log", daemon=True).start()

    def flush(self, timeout_s: float) -> None:
        """Wait until all is written, or for ``timeout_s``."""
        self._idle.wait(timeout_s)

    def _run(self) -> None:
        while True:
            self._ready.wait()
            self._ready.clear()
            while self._lines:
                self._write(self._take())
            if not self._ready.is_set():
                self._idle.set()

    def _write(self, lines: list[bytes]) -> None:
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            pass  # stderr is closed: nobody to tell

    def _take(self) -> list[bytes]:
        taken: list[bytes] = []
        while self._lines and len(taken) < 256:
            taken.append(self._lines.popleft())
        return taken


class LogHandler(logging.Handler):
    """Formats records as JSON lines, or as text for people; secrets and paths are taken out."""

    def __init__(self, writer: LogWriter, *, as_json: bool, debug: bool) -> None:
        super().__init__()
        self._writer = writer
        self._as_json = as_json
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self._format(record))
        except Exception:  # noqa: BLE001 - a record that can not be formatted must not end what logs it
            self._writer.put(b'{"level":"error","logger":"bridge","message":"unprintable log record"}\n')

    def _format(self, record: logging.LogRecord) -> bytes:
        fields: dict[str, Any] = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()[:MAX_MESSAGE_CHARS]),
        }
        for name in ("request_id", "command"):
            if (value := getattr(record, name, None)) is not None:
                fields[name] = value
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self._exception(record.exc_info)
        if self._as_json:
            return _json_line(fields)
        return _text_line(record.created, fields)

    def _exception(self, exc_info: Any) -> str:
        text = "".join(traceback.format_exception(*exc_info))[-MAX_MESSAGE_CHARS:]
        return redact_secrets(text) if self._debug else redact(text)


def _json_line(fields: dict[str, Any]) -> bytes:
    try:
        line = orjson.dumps(fields)
    except orjson.JSONEncodeError:  # lone surrogates
        texts = {key: str(value).encode(errors="replace").decode() for key, value in fields.items()}
        line = orjson.dumps(texts)
    return (line if line.isascii() else line.decode().translate(_ESCAPES).encode()) + b"\n"


def _text_line(created: float, fields: dict[str, Any]) -> bytes:
    clock = time.strftime("%H:%M:%S", time.localtime(created))
    where = f" [{fields['request_id']}]" if "request_id" in fields else ""
    text = f"{clock} {fields['level']:<8} {fields['logger']}{where}: {fields['message']}\n"
    if "exception" in fields:
        text += fields["exception"].rstrip() + "\n"
    return text.encode(errors="replace")


class LogStream:
    """Stands in for ``sys.stdout`` and ``sys.stderr``: what libraries print becomes log lines."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, logger: logging.Logger, level: int, fd: int) -> None:
        self._logger = logger
        self._level = level
        self._fd = fd
        self._part = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._part = (self._part + text).replace("\r", "\n").split("\n")
            if len(self._part) > MAX_MESSAGE_CHARS:
                lines.append(self._part)
                self._part = ""
        for line in lines:
            if line.strip():
                self._logger.log(self._level, "%s", line)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is held back but an unfinished line."""

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._fd


def set_up_logging(fd: int, *, level: str, as_json: bool, debug: bool) -> LogWriter:
    """Send all logging, warnings and stray prints to ``fd`` as log lines."""
    writer = LogWriter(fd)
    root = logging.getLogger()
    root.handlers[:] = [LogHandler(writer, as_json=as_json, debug=debug)]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("stdout", "stderr"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)  # whoever prints wants it seen, whatever the level is
        stream: Any = LogStream(logger, logging.INFO, 1 if name == "stdout" else 2)
        setattr(sys, name, stream)
    return writer


class CommandCounts:
    """How the requests of one command ended."""

    __slots__ = ("cancelled", "chunks", "elapsed_s", "failed", "succeeded")

    def __init__(self) -> None:
        self.succeeded = self.failed = self.cancelled = self.chunks = 0
        self.elapsed_s = 0.0

    def snapshot(self) -> dict[str, int]:
        """The counts, and the time all requests took together in milliseconds."""
        return {
            "succeeded": self.succeeded,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "chunks": self.chunks,
            "elapsed_ms": round(self.elapsed_s * 1000),
        }


class Stats:
    """Counters of one worker, cheap enough for the hot path's ends (requests, not chunks)."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.accepted = 0
        self.rejected = 0
        self.commands: dict[str, CommandCounts] = {}
        self.errors: Counter[str] = Counter()
        self.bytes_read = 0
        self.bad_lines = 0
        self.late_tool_results = 0
        self.abandoned_threads = 0

    def ended(self, command: str, payload: Any, chunks: int, elapsed_s: float) -> None:
        """Count a request that was accepted and has ended with ``payload``."""
        counts = self.commands.get(command)
        if counts is None:
            counts = self.commands[command] = CommandCounts()
        if payload.__class__ is Final_:
            payload = payload.payload
        kind = payload.get("type") if payload.__class__ is dict else None
        if kind == "error":
            counts.failed += 1
            self.errors[str(payload.get("code"))] += 1
        elif kind == "cancelled":
            counts.cancelled += 1
        else:
            counts.succeeded += 1
        counts.chunks += chunks
        counts.elapsed_s += elapsed_s

    def snapshot(self) -> dict[str, Any]:
        """All counters as JSON values; times in the unit their name ends with."""
        return {
            "uptime_s": round(time.monotonic() - self.started, 3),
            "rss_mb": round(rss_bytes() / 2**20, 1),
            "threads": threading.active_count(),
            "requests": {
                "accepted": self.accepted,
                "rejected": self.rejected,
                "succeeded": sum(counts.succeeded for counts in self.commands.values()),
                "failed": sum(counts.failed for counts in self.commands.values()),
                "cancelled": sum(counts.cancelled for counts in self.commands.values()),
            },
            "commands": {name: counts.snapshot() for name, counts in self.commands.items()},
            "errors": dict(self.errors),
            "chunks": sum(counts.chunks for counts in self.commands.values()),
            "bytes_read": self.bytes_read,
            "bad_lines": self.bad_lines,
            "late_tool_results": self.late_tool_results,
            "abandoned_threads": self.abandoned_threads,
        }


def rss_bytes() -> int:
    """The process's resident memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
