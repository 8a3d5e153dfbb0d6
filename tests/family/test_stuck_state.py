"""A call that sets state and does not come to its end keeps nobody waiting, and leaves no worker unlike."""

from __future__ import annotations

import os
import signal

from tests.family.conftest import Family
from tests.family.test_shared_state import seen_everywhere
from tests.support.processes import all_serving, kill_workers, template_of, workers_of


def test_a_setting_that_is_stuck_does_not_keep_the_family_waiting(family: Family) -> None:
    worker = family()
    before = {*all_serving(worker)}
    setting = worker.request("fam.set", {"value": 1, "block_s": 6}, timeout_ms=300)
    waits = worker.request("fam.get", timeout_ms=5000)
    assert worker.collect(setting)[-1]["code"] == "deadline_exceeded"
    assert worker.collect(waits)[-1].get("state") == {}
    assert len({*all_serving(worker)} & before) == 1, "nobody knows what is set in the other"


def test_a_setting_that_was_cancelled_leaves_no_worker_unlike(family: Family) -> None:
    worker = family()
    before = {*all_serving(worker)}
    setting = worker.request("fam.set", {"value": 1, "pause_s": 30})
    worker.sync()
    worker.control("cancel", target=setting)
    assert worker.collect(setting)[-1]["type"] == "cancelled"
    assert seen_everywhere(worker) == [{}] * 2
    assert len({*all_serving(worker)} & before) == 1


def test_an_abort_while_the_others_follow_is_no_failure_of_theirs(family: Family) -> None:
    worker = family()
    all_serving(worker)
    assert worker.call("fam.set", {"value": 1, "pause_s": 1})["type"] == "result"
    worker.control("shutdown", mode="abort")
    assert worker.rest()[-1]["type"] == "bye"
    assert worker.wait() == 0
    assert "failed" not in worker.final_log()


def test_the_spare_worker_takes_what_waits_when_one_that_follows_is_retired(family: Family) -> None:
    worker = family()
    pids = all_serving(worker)
    workers_of(worker)
    slow = worker.request("fam.set", {"value": 1, "pause_s": 4})
    while not (lead := [row["pid"] for row in worker.call("stats")["workers"] if row["in_flight"]]):
        pass
    worker.collect(slow)
    worker.call("fam.set", {"value": 2, "pause_s": 0})  # a newborn needs no more than this
    os.kill(lead[0], signal.SIGTERM)
    assert lead[0] not in workers_of(worker), "those that serve follow, the spare one is new and able"
    os.kill(template_of(worker), signal.SIGSTOP)  # no birth is to wake what waits
    waits = worker.request("fam.get")
    worker.sync()
    os.kill(next(pid for pid in pids if pid not in lead), signal.SIGTERM)
    assert worker.collect(waits, 2)[-1]["state"]["default"]["value"] == 2
    os.kill(template_of(worker), signal.SIGCONT)


def test_what_is_set_together_may_be_longer_than_a_line(family: Family) -> None:
    worker = family("--max-line-bytes", "20000")
    worker.call("fam.set", {"value": "v" * 15_000})
    worker.call("fam.set", {"other": "o" * 15_000})
    kill_workers(worker)
    assert worker.call("kit.where")["type"] == "result"
    assert worker.call("fam.get")["code"] == "limit_exceeded", "all of it is there"


def test_controls_may_share_an_id(family: Family) -> None:
    worker = family()
    worker.request("kit.count", {"n": 6}, id="c", credit=1)
    for _ in range(5):
        worker.send(id="k", command="credit", args={"target": "c", "n": 1})
    assert len(worker.collect("c")) == 7
    assert [worker.collect("k")[-1]["type"] for _ in range(5)] == ["ok"] * 5
    worker.send(id="k", command="credit", args={"target": "c", "n": 0})
    assert worker.collect("k")[-1]["code"] == "invalid_args"
