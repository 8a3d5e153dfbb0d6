"""Any byte sequence on stdin: one error for each bad line, and the next good line works."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Spawn
from tests.support.wirecheck import frame
from tests.support.worker import Worker, run

PARSE, REQUEST, ARGS = "parse_error", "invalid_request", "invalid_args"
DEEP = b"[" * 200 + b"]" * 200

#: A line, the code of its one error, and the id it is told with.
BAD_LINES: list[tuple[bytes, str, Any]] = [
    (b"nope", PARSE, None),
    (b"{", PARSE, None),
    (b"}", PARSE, None),
    (b'{"id":1', PARSE, None),
    (b'{"id":1}}', PARSE, None),
    (b"\x00", PARSE, None),
    (b"\xff\xfe\x00", PARSE, None),
    (b"{'id':1}", PARSE, None),
    (b'{"id":"a","command":"ping",}', PARSE, None),
    (b'{"id":"a","command":"\xff"}', PARSE, None),
    (b'{"id":"a","command":"ping"} x', PARSE, None),
    (b'{"id":"a"}{"id":"b"}', PARSE, None),
    (b"\xef\xbb\xbf{}", PARSE, None),  # only the first line's BOM is dropped
    (b"[]", REQUEST, None),
    (b"1", REQUEST, None),
    (b'"x"', REQUEST, None),
    (b"null", REQUEST, None),
    (b"true", REQUEST, None),
    (b"{}", REQUEST, None),
    (b'{"command":"ping"}', REQUEST, None),
    (b'{"id":null,"command":"ping"}', REQUEST, None),
    (b'{"id":"","command":"ping"}', REQUEST, None),
    (b'{"id":1.0,"command":"ping"}', REQUEST, None),
    (b'{"id":1e2,"command":"ping"}', REQUEST, None),
    (b'{"id":true,"command":"ping"}', REQUEST, None),
    (b'{"id":[],"command":"ping"}', REQUEST, None),
    (b'{"id":{"a":1},"command":"ping"}', REQUEST, None),
    (b'{"id":9007199254740993,"command":"ping"}', REQUEST, None),
    (b'{"id":"' + b"x" * 129 + b'","command":"ping"}', REQUEST, None),
    (b'{"id":"a"}', REQUEST, "a"),
    (b'{"id":"a","command":5}', REQUEST, "a"),
    (b'{"id":7,"command":null}', REQUEST, 7),
    (b'{"id":"a","command":"ping","timeout_ms":0}', REQUEST, "a"),
    (b'{"id":"a","command":"ping","timeout_ms":"5"}', REQUEST, "a"),
    (b'{"id":"a","command":"ping","credit":0}', REQUEST, "a"),
    (b'{"id":"a","command":"ping","credit":2147483649}', REQUEST, "a"),
    (b'{"id":"a","command":"ping","credit":1.5}', REQUEST, "a"),
    (b'{"id":"a","command":"ping","args":[]}', ARGS, "a"),
    (b'{"id":"a","command":"kit.echo","args":"x"}', ARGS, "a"),
    (b'{"id":"a","command":"kit.count","args":{"n":"x"}}', ARGS, "a"),
    (b'{"id":"a","command":"kit.count","args":{"n":1.5}}', ARGS, "a"),
    (b'{"id":"a","command":""}', "unknown_command", "a"),
    (b'{"id":"a","command":"no.such"}', "unknown_command", "a"),
    (b'{"id":"a","command":"' + b"y" * 5000 + b'"}', "unknown_command", "a"),
    (b'{"id":"a","command":"kit.echo","args":{"a":' + DEEP + b"}}", "limit_exceeded", "a"),
    (b'{"args":{"a":' + DEEP + b'},"id":"z","command":"kit.echo"}', "limit_exceeded", "z"),
    (b"[" * 100_000, "limit_exceeded", None),
    (b'{"id":"a","command":"kit.echo","args":{"a":"\xff"}}', PARSE, "a"),
    (b'{"id":"a","command":"kit.echo","args":{"a":1e999}}', ARGS, "a"),
    (b'{"command":"cancel"}', ARGS, None),
    (b'{"command":"cancel","args":5}', ARGS, None),
]


def code_and_id(worker: Worker, line: bytes) -> list[tuple[Any, Any]]:
    """What came for one line, up to the answer of a ping after it."""
    before = len(worker.received)
    worker.line(line)
    worker.sync()
    while len(worker.received) < before + 2:  # what a handler's start finds wrong may come after the pong
        worker.read_some()
    found = [chunk for chunk in worker.received[before:] if chunk["type"] != "pong"]
    return [(chunk.get("code"), chunk["id"]) for chunk in found]


def test_every_malformed_line_gets_one_error_and_the_next_good_line_works(framing: str, spawn: Spawn) -> None:
    worker = spawn(framing=framing)
    for line, code, request_id in BAD_LINES:
        assert code_and_id(worker, line) == [(code, request_id)], line[:100]
    assert worker.call("stats")["bad_lines"] > 0
    assert worker.end()[1] == 0


def test_bad_lines_in_one_write_are_answered_in_their_order(worker: Worker) -> None:
    random.seed(7)
    lines = [item for item in BAD_LINES if item[2] is None] * 3
    random.shuffle(lines)
    worker.write(b"".join(frame(line, "lines") for line, _, _ in lines))
    worker.sync()
    found = [(chunk["code"], chunk["id"]) for chunk in worker.received if chunk["type"] == "error"]
    assert found == [(code, request_id) for _, code, request_id in lines]


@pytest.mark.parametrize("size", [8 * 2**20 + 1, 20 * 2**20])
def test_a_line_too_long_is_answered_and_the_next_good_line_works(
    size: int, framing: str, spawn: Spawn
) -> None:
    worker = spawn(framing=framing)
    worker.line(b" " * 10 + b"x" * (size - 10))
    error = worker.bad_line()
    assert (error["code"], error["details"]["max"]) == ("line_too_long", 8 * 2**20)
    assert worker.call("ping")["type"] == "pong"


def test_a_line_of_exactly_the_limit_works(framing: str, spawn: Spawn) -> None:
    worker = spawn("--max-line-bytes", "5000", framing=framing)
    start = b'{"id":"a","command":"ping","more":"'
    for extra, kind in ((0, "pong"), (1, "error")):
        worker.line(start + b"x" * (5000 - len(start) - 2 + extra) + b'"}')
        assert worker.wait_for(lambda c: c["type"] != "ready")["type"] == kind


def test_a_megabyte_of_args_comes_back_whole(framing: str, spawn: Spawn) -> None:
    worker = spawn(framing=framing)
    text = "é\u2028x" * 300_000
    request = worker.request("kit.echo", {"a": text})
    assert worker.collect(request)[-1]["echo"]["a"] == text


def test_integers_of_any_size_are_read_and_written_exactly(worker: Worker) -> None:
    numbers = [2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**300, -(10**4000)]
    worker.line(b'{"id":"n","command":"kit.echo","args":{"a":[%s]}}' % b",".join(b"%d" % n for n in numbers))
    assert worker.collect("n")[-1]["echo"]["a"] == numbers


def test_blank_lines_cr_and_a_bom_are_ignored() -> None:
    done = run(b'\xef\xbb\xbf{"id":1,"command":"ping"}\r\n\r\n\n   \n{"id":2,"command":"ping"}\r\n')
    assert [chunk["id"] for chunk in done.chunks()] == [None, 1, 2, None]
    assert done.code == 0


def test_a_last_line_without_lf_is_a_line() -> None:
    assert [c["type"] for c in run(b'{"id":1,"command":"ping"}').chunks()] == ["ready", "pong", "bye"]


def test_a_last_line_that_is_cut_off_gets_one_error() -> None:
    done = run(b'{"id":1,"command":"ping"}\n{"id":2,"comm')
    assert [(c["id"], c.get("code")) for c in done.chunks()[1:]] == [
        (1, None),
        (None, "parse_error"),
        (None, None),
    ]


def test_a_last_packet_that_is_cut_off_gets_one_error() -> None:
    done = run(frame(b'{"id":1,"command":"ping"}', "packet4") + b"\0\0\0\x09{", "--framing", "packet4")
    chunks = done.chunks("packet4")
    assert [(c["id"], c.get("code")) for c in chunks[1:]] == [(1, None), (None, "parse_error"), (None, None)]


@settings(max_examples=60)
@given(
    st.lists(
        st.binary(max_size=60).filter(lambda b: b"\n" not in b)
        | st.sampled_from([line for line, _, _ in BAD_LINES if len(line) < 300 and b"kit." not in line])
        | st.text(alphabet='{}[]":,\\u0dx1', max_size=40).map(str.encode),
        max_size=30,
    )
)
def test_any_bytes_get_at_most_one_error_a_line_and_hurt_nothing(lines: list[bytes]) -> None:
    worker = _shared()
    before = len(worker.received)
    for line in lines:
        worker.line(line)
    worker.sync()
    errors = [chunk for chunk in worker.received[before:] if chunk["type"] == "error"]
    written = [line for line in lines if line.strip()]
    assert len(errors) <= len(written)
    assert len(errors) >= sum(not _is_object(line) for line in written)


def _is_object(line: bytes) -> bool:
    """Whether hypothesis has written what may be a request after all."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


_workers: list[Worker] = []


def _shared() -> Worker:
    if not _workers:
        _workers.append(Worker())
        _workers[0].line(b'{"id":0,"command":"ping"}')
    return _workers[0]


@pytest.fixture(autouse=True, scope="module")
def _close_shared() -> Any:
    yield
    while _workers:
        _workers.pop().close()
