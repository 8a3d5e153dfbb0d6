"""Limits for each worker: recycled one at a time, with no request lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from tests.family.conftest import Family
from tests.support.processes import forked, template_of, threads_of, workers_of
from tests.support.worker import PATIENCE, Worker


def recycled(worker: Worker, at_least: int) -> dict[str, int]:
    """Wait until so many workers were recycled."""
    deadline = time.monotonic() + PATIENCE
    while (told := worker.call("stats")["family"])["recycled"] < at_least:
        assert time.monotonic() < deadline, told
    return dict(told)


@pytest.mark.parametrize("flags", [(), ("--commands", "tests.support.late_names")], ids=["", "late-names"])
def test_max_requests_is_each_workers(family: Family, flags: tuple[str, ...]) -> None:
    worker = family("--max-requests", "5", *flags)
    ids = [worker.request("kit.where", {"pause_ms": 1}) for _ in range(60)]
    ends = [worker.collect(request)[-1] for request in ids]
    assert {end["type"] for end in ends} == {"result"}, "none is lost"
    served = Counter(end["pid"] for end in ends)
    assert max(served.values()) <= 5
    assert len(served) >= 12
    assert recycled(worker, 10)["died"] == 0


def test_a_worker_for_each_request(family: Family) -> None:
    worker = family("--max-requests", "1")
    pids = [worker.call("kit.where")["pid"] for _ in range(12)]
    assert len({*pids}) == 12


def test_a_long_stream_goes_on_in_a_worn_out_worker(family: Family) -> None:
    worker = family("--max-age-s", "0.5")
    old = {*workers_of(worker)}
    worker.request("kit.count", {"n": 300, "pause_ms": 10}, id="long")
    worker.type("chunk", "long")
    recycled(worker, 1)
    assert [chunk["n"] for chunk in worker.collect("long")[:-1]][-1] == 299
    deadline = time.monotonic() + PATIENCE
    while old & {*workers_of(worker)}:
        worker.call("kit.where")
        assert time.monotonic() < deadline


def test_no_more_than_one_more_process_than_workers(family: Family) -> None:
    worker = family("--workers", "3", "--max-age-s", "0.2")
    for number in range(3):
        worker.request("kit.hold", {"gate": f"g{number}"}, id=f"h{number}")
        worker.type("started", f"h{number}")
    most = 0
    until = time.monotonic() + 3
    while time.monotonic() < until:
        worker.call("kit.where")
        with open(f"/proc/{template_of(worker)}/task/{template_of(worker)}/children") as file:
            most = max(most, len(file.read().split()))
    assert most <= 3 + 1 + 1 + 1  # the worn-out, the spare, and one that has ended may be there for a moment
    for number in range(3):
        worker.control("cancel", target=f"h{number}")
        assert worker.collect(f"h{number}")[-1]["type"] == "cancelled"


def test_a_long_stream_in_a_worn_out_worker_does_not_keep_the_others(family: Family) -> None:
    worker = family("--max-age-s", "0.2", "--hung-after-s", "1")
    worker.request("kit.hold", {"gate": "g"}, id="long")
    worker.type("started", "long")
    old = {*workers_of(worker)}
    deadline = time.monotonic() + PATIENCE
    while recycled(worker, 6)["died"] or len(left := old & {*forked(worker)}) > 1:
        assert time.monotonic() < deadline
    worker.control("cancel", target="long")
    assert worker.collect("long")[-1]["type"] == "cancelled"
    assert len(left) == 1, "the one with the stream"


def test_a_worker_that_has_grown_is_replaced(family: Family) -> None:
    worker = family("--max-rss-mb", "200")
    assert worker.call("kit.grow", {"mb": 250})["type"] == "result"
    (grown,) = [row["pid"] for row in worker.call("stats")["workers"] if row.get("rss_mb", 0) > 200]
    recycled(worker, 1)
    deadline = time.monotonic() + PATIENCE
    while any(row.get("rss_mb", 0) > 200 for row in worker.call("stats")["workers"]):
        assert time.monotonic() < deadline
    assert grown not in workers_of(worker)


def test_a_limit_below_what_a_worker_needs_is_told(family: Family) -> None:
    worker = family("--max-rss-mb", "5", "--hung-after-s", "1")
    recycled(worker, 2)
    assert "the limit is too low" in worker.log()


def test_a_worker_that_gets_sigterm_finishes_and_is_replaced(family: Family) -> None:
    worker = family()
    worker.request("kit.count", {"n": 100, "pause_ms": 10}, id="long")
    worker.type("chunk", "long")
    row = next(row for row in worker.call("stats")["workers"] if row["in_flight"])
    os.kill(row["pid"], signal.SIGTERM)
    assert worker.collect("long")[-1]["type"] == "complete"
    recycled(worker, 1)
    assert row["pid"] not in workers_of(worker)
    assert worker.process.poll() is None


def test_a_worker_that_gets_sigterm_before_it_is_named_is_replaced(family: Family) -> None:
    worker = family("--commands", "tests.support.late_names")
    template = template_of(worker)
    deadline = time.monotonic() + PATIENCE
    while not (born := forked(worker)):
        assert time.monotonic() < deadline
    os.kill(template, signal.SIGSTOP)  # it has not told of that one, and does not for now
    (pid,) = born
    while threads_of(pid) < 2:  # what hears signals is one
        assert time.monotonic() < deadline
    os.kill(pid, signal.SIGTERM)
    worker.sync()
    os.kill(template, signal.SIGCONT)
    recycled(worker, 1)
    assert pid not in workers_of(worker)
