"""What ``configure`` and its like set holds in every worker, in order, and in those that come later."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tests.family.conftest import Family
from tests.support.processes import all_serving, kill_workers
from tests.support.worker import Worker

SCRIPTED = {"model": "scripted", "script": [{"outputs": {"answer": "42"}}]}


def seen_everywhere(worker: Worker, count: int = 2) -> list[Any]:
    """The state that each worker has."""
    found: dict[int, Any] = {}
    while len(found) < count:  # one that is still being told gets nothing meanwhile
        ids = [worker.request("fam.get", {"pause_s": 0.02}) for _ in range(count)]
        found |= {end["pid"]: end["state"] for end in (worker.collect(request)[-1] for request in ids)}
    return [*found.values()]


def test_a_request_sees_what_was_set_before_it_and_nothing_later(family: Family) -> None:
    worker = family("--workers", "3")
    asked = []
    for number in range(40):  # nobody waits for an answer
        worker.request("fam.set", {"value": number, "pause_s": 0.001 * (number % 3)})
        asked.append([worker.request("fam.get") for _ in range(4)])
    for number, ids in enumerate(asked):
        seen = [worker.collect(request)[-1]["state"]["default"]["value"] for request in ids]
        assert min(seen) >= number, "what was sent before it is there"


def test_requests_in_the_queue_run_before_what_is_set_after_them(family: Family) -> None:
    worker = family("--max-inflight", "1")
    worker.request("kit.hold", id="slot")
    worker.type("started", "slot")
    early = [worker.request("fam.get") for _ in range(5)]
    setting = worker.request("fam.set", {"value": "late"})
    late = [worker.request("fam.get") for _ in range(5)]
    worker.control("cancel", target="slot")
    assert [worker.collect(request)[-1]["state"] for request in early] == [{}] * 5
    assert worker.collect(setting)[-1]["type"] == "result"
    assert {worker.collect(request)[-1]["state"]["default"]["value"] for request in late} == {"late"}


def test_calls_for_one_name_are_merged_for_the_newborn(family: Family) -> None:
    worker = family()
    worker.call("fam.set", {"value": 1})
    worker.call("fam.set", {"name": "b", "value": 2})
    worker.call("fam.set", {"name": "default", "other": 3})
    worker.call("fam.set", {"name": "b", "value": 4})
    expected = {"default": {"value": 1, "other": 3}, "b": {"value": 4}}
    assert seen_everywhere(worker) == [expected] * 2
    kill_workers(worker)
    assert seen_everywhere(worker) == [expected] * 2


def test_what_fails_changes_nothing_anywhere(family: Family) -> None:
    worker = family()
    worker.call("fam.set", {"value": 1})
    assert worker.call("fam.set", {"value": 2, "fail": True})["type"] == "error"
    assert worker.call("fam.set", {"value": 2, "unknown": True})["code"] == "invalid_args"
    assert worker.call("fam.set", {"value": 2, "pause_s": 5}, timeout_ms=50)["code"] == "deadline_exceeded"
    kill_workers(worker)
    assert seen_everywhere(worker) == [{"default": {"value": 1}}] * 2


def test_a_setting_whose_worker_dies_is_told_and_the_family_goes_on(family: Family) -> None:
    worker = family()
    worker.call("kit.where")
    worker.request("fam.set", {"value": 1, "pause_s": 5}, id="set")
    waits = worker.request("fam.get")
    while not (busy := [row["pid"] for row in worker.call("stats")["workers"] if row["in_flight"]]):
        pass
    os.kill(busy[0], signal.SIGKILL)
    assert worker.collect("set")[-1]["code"] == "worker_died"
    assert worker.collect(waits)[-1]["state"] == {}


def test_a_configured_language_model_is_every_workers(family: Family) -> None:
    worker = family(dspy=True)
    done = worker.call("configure", {"lm": SCRIPTED, "name": "clever"})
    assert (done["name"], done["scripted"]) == ("clever", True)
    worker.call("configure", {"name": "clever", "adapter": "json"})

    def answers() -> set[str]:
        args = {"signature": "question -> answer", "items": [{"question": "?"}] * 3, "lm": "clever"}
        ids = [worker.request("stream_predict_batch", args) for _ in range(6)]
        return {chunk["output"]["answer"] for each in ids for chunk in worker.collect(each)[:-1]}

    assert answers() == {"42"}
    kill_workers(worker)
    assert answers() == {"42"}
    lms = worker.call("stats")["dspy"]["lms"]
    assert lms == {
        "clever": {
            "model": "scripted",
            "provider": "scripted",
            "adapter": "json",
            "scripted": True,
            "in_use": 0,
        }
    }
    assert worker.call("configure", {"lm": {"model": ""}})["type"] == "error"
    assert answers() == {"42"}


def test_a_setting_that_gets_stuck_holds_the_family_up_no_longer_than_it_may(family: Family) -> None:
    worker = family()
    all_serving(worker)
    worker.request("fam.set", {"value": "stuck", "block_s": 3}, id="set")
    waits = worker.request("fam.get")
    while not any(row["in_flight"] for row in worker.call("stats")["workers"]):
        pass
    begin = time.monotonic()
    worker.control("cancel", target="set")
    assert worker.collect("set")[-1]["type"] == "cancelled"
    assert worker.collect(waits)[-1]["state"] == {}
    assert time.monotonic() - begin < 2.5
    kill_workers(worker)
    assert seen_everywhere(worker) == [{}, {}]
