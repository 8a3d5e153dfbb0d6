"""A worker that dies ends its own requests and nothing else; exactly one ``done`` for each, always."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.family.conftest import Family
from tests.support.processes import children, descriptors, everybody, template_of, wait_all_gone, workers_of
from tests.support.worker import PATIENCE, Worker, types


def busy_worker(worker: Worker, *requests: str) -> dict[int, int]:
    """Start a stream that never ends for each id; the pid of the worker that each is in."""
    for request in requests:
        worker.request("kit.hold", {"gate": request}, id=request)
        worker.type("started", request)
    told = worker.call("stats")["workers"]
    rows = {row["pid"]: row["in_flight"] for row in told if row["in_flight"]}
    assert sum(rows.values()) == len(requests)
    return rows


@pytest.mark.parametrize(
    ("how", "details", "words"),
    [
        ("segfault", {"signal": "SIGSEGV"}, "killed by SIGSEGV"),
        ("kill", {"signal": "SIGKILL"}, "killed by SIGKILL"),
        ("abort", {"signal": "SIGABRT"}, "killed by SIGABRT"),
        ("exit", {"exit_code": 7}, "exit code 7"),
    ],
)
def test_a_death_ends_its_own_requests_only(
    family: Family, how: str, details: dict[str, object], words: str
) -> None:
    worker = family()
    worker.request("kit.count", {"n": 100, "pause_ms": 5}, id="other")
    worker.type("chunk", "other")
    worker.request("fam.die", {"how": how, "chunks": 1234}, id="dies")
    chunks = worker.collect("dies")
    assert [chunk.get("n") for chunk in chunks[:-1]] == [*range(1234)], "what was sent is not lost"
    last = chunks[-1]
    assert (last["type"], last["code"], last["retryable"]) == ("error", "worker_died", True)
    assert (last["seq"], last["details"]) == (1234, details)
    assert words in last["error"]
    assert worker.collect("other")[-1]["type"] == "complete"
    assert len(workers_of(worker)) == 2
    assert worker.call("stats")["family"]["died"] == 1
    assert {worker.call("kit.where")["type"] for _ in range(4)} == {"result"}


def test_all_requests_of_a_dead_worker_end_and_its_controls_are_answered(family: Family) -> None:
    worker = family()
    worker.request("kit.block_loop", {"seconds": 30}, id="stuck")
    worker.type("started", "stuck")
    worker.request("kit.hold", id="elsewhere")
    worker.type("started", "elsewhere")
    time.sleep(0.2)  # until the loop is blocked: only the handler knows when
    worker.send(id="control", command="tool_result", args={"target": "stuck", "call_id": "c1", "value": 1})
    worker.sync()
    stuck = next(row["pid"] for row in worker.call("stats")["workers"] if not row["answers"])
    os.kill(stuck, signal.SIGKILL)
    assert worker.collect("stuck")[-1]["code"] == "worker_died"
    assert worker.collect("control")[-1]["type"] == "ok"
    worker.control("cancel", target="elsewhere")
    assert worker.collect("elsewhere")[-1]["type"] == "cancelled"


def test_a_new_worker_serves_at_once(family: Family) -> None:
    worker = family()
    for _ in range(4):
        worker.call("kit.where")
    before = workers_of(worker)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    while worker.call("stats")["family"]["died"] != len(before):
        pass  # what a request sent before that would get is worker_died
    assert worker.call("kit.where", timeout_ms=5000)["pid"] not in before
    assert not {*workers_of(worker)} & {*before}


def test_retry_died_runs_again_what_had_sent_nothing(family: Family, tmp_path: Path) -> None:
    worker = family("--retry-died")
    flag = {"flag": str(tmp_path / "died")}
    chunks = worker.stream("fam.die", {"how": "kill", **flag}, timeout_ms=20_000, credit=5)
    assert types(chunks) == ["survived", "complete"]
    begun = worker.stream("fam.die", {"how": "kill", "chunks": 1})
    assert (types(begun), begun[-1]["code"]) == (["chunk", "error"], "worker_died")


def test_retry_died_does_not_let_one_request_kill_all(family: Family) -> None:
    worker = family("--retry-died")
    worker.call("kit.where")
    worker.call("kit.where")
    last = worker.call("fam.die", {"how": "segfault"})
    assert last["code"] == "worker_died"
    assert worker.call("stats")["family"]["died"] == 2


def test_without_retry_died_nothing_runs_twice(family: Family, tmp_path: Path) -> None:
    worker = family()
    assert worker.call("fam.die", {"how": "kill", "flag": str(tmp_path / "died")})["code"] == "worker_died"


def test_a_crash_loop_is_slowed_down_and_told(family: Family) -> None:
    worker = family()
    for number in range(6):
        assert worker.call("fam.die", {"how": "exit", "pause_s": 0})["code"] == "worker_died", number
    assert "workers in a row have died" in worker.log()
    begin = time.monotonic()
    assert worker.call("kit.where")["type"] == "result"  # it waits for the pause to end
    assert time.monotonic() - begin < 5
    assert worker.call("stats")["family"]["died"] == 6


def test_a_worker_that_answers_nothing_is_replaced(family: Family) -> None:
    worker = family("--hung-after-s", "1")
    worker.request("kit.hold", id="other")
    worker.type("started", "other")
    begin = time.monotonic()
    chunks = worker.stream("kit.block_loop", {"seconds": 60})
    last = chunks[-1]
    assert (types(chunks), last["code"], last["retryable"]) == (["started", "error"], "worker_hung", True)
    assert 0.9 < time.monotonic() - begin < 6
    assert worker.call("kit.where")["type"] == "result"
    worker.control("cancel", target="other")
    assert worker.collect("other")[-1]["type"] == "cancelled"
    assert worker.call("stats")["family"]["hung"] == 1
    assert len(workers_of(worker)) == 2


def test_a_stopped_worker_is_hung(family: Family) -> None:
    worker = family("--hung-after-s", "0.6")
    rows = busy_worker(worker, "a", "b")
    victim = next(iter(rows))
    os.kill(victim, signal.SIGSTOP)
    codes = [worker.type("error")["code"]]
    assert codes == ["worker_hung"]
    assert len(workers_of(worker)) == 2


def test_a_host_that_does_not_read_is_no_hung_worker(family: Family) -> None:
    worker = family("--hung-after-s", "0.4")
    ids = [worker.request("kit.flood", {"size": 2000}) for _ in range(2)]
    pids = workers_of(worker)
    worker.type("chunk")
    time.sleep(2)  # of not reading: that nothing happens has no event
    assert {*workers_of(worker)} == {*pids}
    for request in ids:
        worker.control("cancel", target=request)
        assert worker.collect(request)[-1]["type"] == "cancelled"
    assert worker.call("stats")["family"]["hung"] == 0


def test_the_death_of_the_template_touches_no_request(family: Family) -> None:
    worker = family()
    busy_worker(worker, "a", "b")
    first = template_of(worker)
    os.kill(first, signal.SIGKILL)
    wait_all_gone([first], 2)
    worker.control("cancel", target="a")
    assert worker.collect("a")[-1]["type"] == "cancelled"
    deadline = time.monotonic() + PATIENCE
    while (told := worker.call("stats")["family"])["template_restarts"] != 1:
        assert time.monotonic() < deadline, told
    assert worker.call("fam.die", {"how": "kill"})["code"] == "worker_died"
    while len(children(worker.pid)) != 1 or len(children(template_of(worker))) < 1:
        assert time.monotonic() < deadline, "the new template forks"
        time.sleep(0.01)
    worker.control("cancel", target="b")
    assert worker.collect("b")[-1]["type"] in ("cancelled", "error")
    assert worker.call("kit.where")["type"] == "result"


def test_nothing_outlives_a_host_that_is_gone_although_its_template_does_not_live(family: Family) -> None:
    worker = family()
    before = workers_of(worker)
    worker.request("kit.hold_gil", {"seconds": 30}, id="stuck")
    worker.type("started", "stuck")
    time.sleep(0.2)  # until the lock is held: only the handler knows when
    os.kill(template_of(worker), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while worker.call("stats")["family"]["template_restarts"] != 1:
        assert time.monotonic() < deadline
    worker.stdin.close()
    worker.stdout.close()
    assert worker.wait() == 3
    wait_all_gone(before, 1.0)


def test_deaths_leak_nothing(family: Family) -> None:
    worker = family()
    for _ in range(4):
        worker.call("kit.where")
    before = descriptors(worker.pid), descriptors(template_of(worker))
    for _ in range(15):
        worker.call("kit.where")
        assert worker.call("fam.die", {"how": "kill", "pause_s": 0})["code"] == "worker_died"
    assert len(workers_of(worker)) == 2
    worker.call("stats")
    after = descriptors(worker.pid), descriptors(template_of(worker))
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1]


@pytest.mark.parametrize("framing", ["lines", "packet4"])
def test_kills_at_random_under_load_leave_exactly_one_done_each(family: Family, framing: str) -> None:
    worker = family("--workers", "3", framing=framing)
    chance = random.Random(5)
    template = template_of(worker)
    open_ids: set[str | int] = set()
    ends: dict[str, int] = {"complete": 0, "error": 0, "cancelled": 0}
    codes: set[str] = set()
    started = 0
    until = time.monotonic() + 8
    next_kill = time.monotonic() + 0.3
    while open_ids or time.monotonic() < until:
        while len(open_ids) < 40 and time.monotonic() < until:
            size = chance.choice([1, 100, 5000])
            args = {"n": chance.randrange(1, 200), "size": size, "pause_ms": chance.choice([0, 0, 1])}
            command = chance.choice(["kit.count", "kit.sync_count"])
            credit = {"credit": 1000} if chance.random() < 0.5 else {}
            open_ids.add(worker.request(command, args, **credit))
            started += 1
        if chance.random() < 0.05:
            worker.control("cancel", target=chance.choice([*open_ids]))
        if time.monotonic() > next_kill and time.monotonic() < until:
            next_kill += 0.25
            victims = children(template)
            if victims:
                os.kill(chance.choice(victims), signal.SIGKILL)
        chunk = worker.next()  # the checker sees to seq, and to one done for each
        if "done" in chunk:
            open_ids.remove(chunk["id"])
            ends[chunk["type"]] += 1
            if chunk["type"] == "error":
                codes.add(chunk["code"])
    assert sum(ends.values()) == started
    assert codes <= {"worker_died"}
    assert ends["complete"] > 50
    told = worker.call("stats")
    assert told["family"]["died"] >= 5
    assert (told["running"], told["queued"]) == (1, 0)
    assert len(workers_of(worker, 3)) == 3
    pids = everybody(worker, 3)
    assert worker.end()[1] == 0
    wait_all_gone(pids, 1.5)


def test_supervisors_killed_at_random_under_load_leave_nobody(family: Family) -> None:
    chance = random.Random(7)
    for _ in range(4):
        worker = family()
        pids = everybody(worker)
        for _ in range(20):
            worker.request("kit.count", {"n": 10_000, "size": 500})
        for _ in range(chance.randrange(1, 300)):
            worker.next()
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        wait_all_gone(pids, 2)
