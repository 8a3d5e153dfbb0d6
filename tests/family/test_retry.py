"""``--retry-died``: a second run is what the first would have been, and what has ended has none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.family.conftest import Family
from tests.support.processes import forked, template_of, workers_of
from tests.support.worker import Worker, types


def only_one(worker: Worker) -> int:
    """Leave one worker, stopped: what it is sent stays unread. No other comes before :func:`end`."""
    last, _ = workers_of(worker)
    others = [pid for pid in forked(worker) if pid != last]
    os.kill(template_of(worker), signal.SIGSTOP)
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    while worker.call("stats")["family"]["died"] != len(others):
        pass
    os.kill(last, signal.SIGSTOP)
    return last


def end(worker: Worker, pid: int) -> None:
    """Kill a worker and have others come."""
    os.kill(pid, signal.SIGKILL)
    os.kill(template_of(worker), signal.SIGCONT)


def test_what_was_granted_to_the_first_run_is_the_seconds_too(family: Family) -> None:
    worker = family("--retry-died")
    pid = only_one(worker)
    worker.request("kit.count", {"n": 6}, id="c", credit=1)
    worker.control("credit", target="c", n=3)
    worker.send(id="x", command="credit", args={"target": "c", "n": 2})
    assert worker.collect("x")[-1]["type"] == "ok", "at once, whatever the worker does"
    end(worker, pid)
    assert types(worker.collect("c")) == ["chunk"] * 6 + ["complete"]


def test_what_was_cancelled_is_not_run_again(family: Family) -> None:
    worker = family("--retry-died")
    pid = only_one(worker)
    worker.request("kit.hold", id="h")
    worker.control("cancel", target="h")
    worker.sync()
    end(worker, pid)
    last = worker.collect("h")[-1]
    assert (last["type"], last["seq"], last["reason"]) == ("cancelled", 0, "client")
    assert worker.call("stats")["running"] == 1


def test_an_id_is_free_once_its_second_run_was_cancelled(family: Family) -> None:
    worker = family("--retry-died")
    pid = only_one(worker)
    worker.request("kit.hold", id="h")
    worker.sync()
    os.kill(pid, signal.SIGKILL)
    while worker.call("stats")["queued"] != 1:
        pass
    worker.control("cancel", target="h")
    assert worker.collect("h")[-1]["type"] == "cancelled"
    worker.request("kit.echo", {"x": 1}, id="h")
    os.kill(template_of(worker), signal.SIGCONT)
    assert worker.collect("h")[-1]["echo"] == {"x": 1}


def test_requests_keep_their_place_before_what_is_set_after_them(family: Family) -> None:
    worker = family("--retry-died")
    pid = only_one(worker)
    early = [worker.request("fam.get") for _ in range(6)]
    setting = worker.request("fam.set", {"value": 1, "pause_s": 0.1})
    late = [worker.request("fam.get") for _ in range(6)]
    worker.sync()
    end(worker, pid)
    assert [worker.collect(each)[-1]["state"] for each in early] == [{}] * 6
    assert worker.collect(setting)[-1]["type"] == "result"
    assert [worker.collect(each)[-1]["state"]["default"] for each in late] == [{"value": 1}] * 6


def test_a_second_run_keeps_what_is_left_of_its_time(family: Family, tmp_path: Path) -> None:
    worker = family("--retry-died")
    flag = {"flag": str(tmp_path / "died"), "how": "kill", "pause_s": 0.6}
    assert worker.call("fam.die", flag, timeout_ms=1000)["code"] == "deadline_exceeded"
