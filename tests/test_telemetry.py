"""Logs that can not block, and counters."""

from __future__ import annotations

import json
import logging
import os
import select

import pytest

from bridge.telemetry import MAX_WAITING, LogHandler, LogStream, LogWriter, Stats
from bridge.wire.messages import final


class Sink(LogWriter):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[bytes] = []

    def put(self, line: bytes) -> None:
        self.lines.append(line)


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("bridge.test", logging.WARNING, __file__, 1, message, args, None)


def logged(message: str, *args: object, as_json: bool = True) -> bytes:
    sink = Sink()
    LogHandler(sink, as_json=as_json, debug=False).emit(record(message, *args))
    assert len(sink.lines) == 1
    return sink.lines[0]


@pytest.mark.parametrize("message", ["plain", "two\nlines", "\u2028 \x85", "lone \ud800", "é" * 10, "\x00"])
def test_a_record_is_one_json_line(message: str) -> None:
    line = logged("%s", message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert not any(separator in line for separator in (b"\xe2\x80\xa8", b"\xc2\x85"))
    fields = json.loads(line)
    assert (fields["level"], fields["logger"]) == ("warning", "bridge.test")


def test_a_record_that_can_not_be_formatted_is_still_a_line() -> None:
    assert json.loads(logged("%d", "no number"))["level"] == "error"


def test_a_huge_record_is_cut() -> None:
    assert len(logged("x" * 1_000_000)) < 20_000


def test_paths_are_taken_out_of_records() -> None:
    assert b"/home/me" not in logged("open /home/me/x.txt")
    assert b"/home/me" not in logged("open /home/me/x.txt", as_json=False)


def test_a_reader_that_stops_makes_the_queue_drop_its_oldest() -> None:
    read_end, write_end = os.pipe()
    writer = LogWriter(write_end)
    for number in range(MAX_WAITING * 3):
        writer.put(b"%d " % number + b"x" * 100 + b"\n")
    assert writer.dropped > 0
    data = b""
    while select.select([read_end], [], [], 1.0)[0]:
        data += os.read(read_end, 1 << 20)
        if data.rstrip(b"x\n").endswith(b"%d " % (MAX_WAITING * 3 - 1)):
            break
    numbers = [int(line.split()[0]) for line in data.splitlines()]
    assert numbers == sorted(numbers)
    assert numbers[-1] == MAX_WAITING * 3 - 1, "the newest is kept"
    writer.flush(5)
    os.close(read_end)
    os.close(write_end)


def test_what_is_printed_becomes_whole_lines(caplog: pytest.LogCaptureFixture) -> None:
    stream = LogStream(logging.getLogger("printed"), logging.INFO, 1)
    with caplog.at_level(logging.INFO):
        for part in ("half ", "and half\nnext\rover\n", "\n", "rest"):
            stream.write(part)
    assert [item.getMessage() for item in caplog.records] == ["half and half", "next", "over"]
    assert stream.isatty() is False


def test_counters_count_ends_by_their_kind() -> None:
    stats = Stats()
    stats.ended("x", {"type": "complete"}, 3, 0.5)
    stats.ended("x", {"type": "error", "code": "internal"}, 1, 0.1)
    stats.ended("y", {"type": "cancelled"}, 1, 0.0)
    stats.ended("y", final({"type": "error", "code": "own"}), 1, 0.0)
    shown = stats.snapshot()
    assert {"succeeded": 1, "failed": 2, "cancelled": 1}.items() <= shown["requests"].items()
    assert shown["errors"] == {"internal": 1, "own": 1}
    x = {"succeeded": 1, "failed": 1, "chunks": 4, "elapsed_ms": 600}
    assert x.items() <= shown["commands"]["x"].items()
    assert shown["chunks"] == 6
    assert shown["rss_mb"] > 1
