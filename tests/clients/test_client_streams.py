"""Every client with our own worker: many streams, long ones, big chunks, and text of every kind."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.support.drivers import Driver, Start
from tests.support.worker import Worker

LONG = 2_000_000
#: What a host may take beyond what it has when it is warm. Two million chunks kept would be 200 MB and more.
FLAT_MB = 80.0


def until_idle(driver: Driver, within_s: float = 5.0) -> None:
    """Come back when the worker runs nothing but the question."""
    deadline = time.monotonic() + within_s
    while (running := driver.call("stats")["running"]) > 1:
        assert time.monotonic() < deadline, f"{running} requests are running"


def test_fifty_streams_side_by_side(start: Start) -> None:
    driver = start()
    held = [driver.stream("kit.hold", {"gate": str(gate)}, report="chunks") for gate in range(10)]
    assert [driver.event(ref)["chunk"]["type"] for ref in held] == ["started"] * 10
    refs = [driver.stream("kit.count", {"n": 100 + number}, credit=16) for number in range(50)]
    for number, ref in enumerate(refs):
        event = driver.expect("ended", driver.event(ref))
        assert (event["count"], event["in_order"], event["type"]) == (101 + number, True, "complete")
    for gate, ref in enumerate(held):
        driver.call("kit.release", {"gate": str(gate)})
        assert driver.event(ref)["chunk"]["type"] == "released"


def test_fifty_slow_streams_take_no_longer_than_one(start: Start) -> None:
    driver = start()
    refs = [driver.stream("kit.count", {"n": 20, "pause_ms": 20}, credit=4) for _ in range(50)]
    ended = [driver.expect("ended", driver.event(ref)) for ref in refs]
    assert {(event["count"], event["in_order"]) for event in ended} == {(21, True)}
    assert max(event["ms"] for event in ended) < 50 * 20 * 20 / 4


def test_a_slow_consumer_of_two_million_chunks_holds_flat_memory(start: Start) -> None:
    driver = start()
    workers = driver.pids()
    warm = driver.stream("kit.count", {"n": 50_000}, credit=512)
    driver.expect("ended", driver.event(warm))
    before = driver.memory_mb(workers)
    slow = {"slow_every": 20_000, "slow_ms": 5}
    ref = driver.stream("kit.count", {"n": LONG}, credit=512, **slow)
    most, deadline = before, time.monotonic() + 90
    while not driver.wait_for(ref, 0.1):
        most = max(most, driver.memory_mb(workers))
        assert time.monotonic() < deadline
    event = driver.expect("ended", driver.event(ref))
    assert (event["count"], event["in_order"]) == (LONG + 1, True)
    assert most - before < FLAT_MB, f"{before:.0f} MB before, {most:.0f} MB at the most"


def test_others_go_on_beside_a_consumer_that_stands_still(start: Start) -> None:
    driver = start()
    standing = driver.stream("kit.flood", {}, credit=32, slow_every=1, slow_ms=10_000)
    event = driver.expect("ended", driver.event(driver.stream("kit.count", {"n": 1000}, credit=32)))
    assert (event["count"], event["in_order"]) == (1001, True)
    seen = driver.call("kit.seen")["seen"]
    assert seen["flooded"] <= 32 + 16 + 1
    assert not driver.leftover(standing)
    driver.do("cancel", standing)
    until_idle(driver)


def test_leaving_ten_million_chunks_in_the_middle(start: Start) -> None:
    driver = start()
    event = driver.event(driver.stream("kit.count", {"n": 10_000_000}, credit=512, take=20_000))
    driver.expect("left", event)
    assert event["count"] == 20_000
    assert event["ms"] < 500
    begin = time.monotonic()
    driver.call("ping")
    assert time.monotonic() - begin < 1
    until_idle(driver)


def test_cancelling_from_outside_frees_the_worker(start: Start) -> None:
    driver = start()
    held = driver.stream("kit.hold", report="chunks")
    driver.event(held)
    flood = driver.stream("kit.flood", credit=64)
    driver.call("ping")
    for ref in (held, flood):
        driver.do("cancel", ref)
        driver.expect("left", driver.event(ref))
    until_idle(driver)


def test_a_deadline_is_the_workers(start: Start) -> None:
    driver = start()
    operations: list[dict[str, Any]] = [{"op": "call"}, {"op": "stream", "report": "count"}]
    for operation in operations:
        event = driver.ask(**operation, command="kit.hold", args={}, timeout_ms=150)
        assert event["event"] == "failed"
        assert (event["code"], event["retryable"]) == ("deadline_exceeded", True)


def test_megabyte_chunks(start: Start) -> None:
    driver = start()
    text = "".join(letters(500_000))
    assert len(text.encode()) > 1_000_000
    assert driver.call("kit.echo", {"text": text})["echo"] == {"text": text}
    ref = driver.stream("kit.count", {"n": 30, "size": 1_000_000}, credit=4)
    event = driver.expect("ended", driver.event(ref))
    assert (event["count"], event["in_order"]) == (31, True)


def letters(count: int) -> Iterator[str]:
    """Characters of one to four bytes in UTF-8, in no regular order, without surrogates."""
    state = 1
    for _ in range(count):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        limit = (0x80, 0x800, 0xD800, 0x110000)[state >> 8 & 3]
        point = (state >> 12) % limit
        yield chr(point if not 0xD800 <= point < 0xE000 else point - 0x800)


TEXTS = {
    "separators": "a\u2028b\u2029c\u0085d\x0b\x0c\x1c\x1d\x1e",
    "controls": "".join(map(chr, range(0x20))) + "\x7f\x80\x9f",
    "escapes": '"\\/\b\f\n\r\t\\u0041 \\n',
    "combining": "e\u0301 n\u0303 \u1112\u1161\u11ab a\u0300\u0301\u0302\u0303",
    "right to left": "שלום مرحبا \u202e\u2066abc\u2069\u200f",
    "emoji": "👩‍👩‍👧‍👦 👍🏽 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇫🇷 ❤️",
    "planes": "".join(chr(plane * 0x10000 + 0x1234) for plane in range(17)),
    "edges": "\x7f\x80\u07ff\u0800\ud7ff\ue000\ufdd0\ufffd\ufffe\uffff\U00010000\U0010ffff",
    "marks": "\ufeffafter a BOM\u200b\u00ad\u2060",
    "empty": "",
}


def test_text_of_every_kind(start: Start) -> None:
    driver = start()
    assert driver.call("kit.echo", {"texts": TEXTS})["echo"] == {"texts": TEXTS}
    keys = {text: name for name, text in TEXTS.items()}
    assert driver.call("kit.echo", {"keys": keys})["echo"] == {"keys": keys}


def test_values_are_handed_on_as_the_worker_writes_them(start: Start) -> None:
    with Worker() as worker:
        expected = [payload(chunk) for chunk in worker.stream("kit.values") + worker.stream("kit.split")]
    driver = start()
    found = []
    for command in ("kit.values", "kit.split"):
        ref = driver.stream(command, report="chunks")
        while (event := driver.event(ref))["event"] == "chunk":
            found.append(payload(event["chunk"]))
        driver.expect("ended", event)
    for one, other in zip(found, expected, strict=True):
        assert one == other


def payload(chunk: dict[str, Any]) -> Any:
    """The chunk without its id and time; numbers as a runtime that has doubles only sees them."""
    kept = {key: value for key, value in chunk.items() if key not in ("id", "elapsed_ms")}
    return doubles(kept)


def doubles(value: Any) -> Any:
    """``value`` with all numbers as floats; one that is too big is the biggest."""
    if isinstance(value, dict):
        return {key: doubles(part) for key, part in value.items()}
    if isinstance(value, list):
        return [doubles(part) for part in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-sys.float_info.max, min(sys.float_info.max, float(value)))
    return value
