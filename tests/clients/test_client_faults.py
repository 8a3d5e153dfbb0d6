"""Every client with our own worker: who is told when a worker dies, and what is left when the host does."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.support.drivers import COMMANDS, Driver, Start
from tests.support.worker import alive, command_line, wait_gone

#: The promise is a second; the machine may be busy.
GONE_S = 2.0


# ---- a worker dies ---------------------------------------------------------------------------------


def test_every_caller_of_a_killed_worker_is_told(start: Start) -> None:
    driver = start(workers=1)
    [pid] = driver.pids()
    refs = [driver.stream("kit.flood", credit=64) for _ in range(3)]
    refs.append(driver.do("call", command="kit.hold", args={}))
    driver.call("ping")
    driver.kill_worker(pid)
    for ref in refs:
        event = driver.event(ref)
        assert (event["event"], event["code"], event["retryable"]) == ("failed", "worker_died", True)
    assert driver.call("ping")["type"] == "pong"
    assert driver.pids() != [pid]


def test_retries_send_a_request_to_the_next_worker(start: Start) -> None:
    driver = start(workers=1)
    [pid] = driver.pids()
    silent = {"n": 1, "pause_ms": 600}
    call = driver.do("call", command="kit.count", args=silent, retries=1)
    stream = driver.stream("kit.count", silent, retries=1)
    without = driver.stream("kit.count", silent)
    driver.call("ping")
    driver.kill_worker(pid)
    assert driver.expect("result", driver.event(call))["chunk"]["type"] == "complete"
    assert driver.expect("ended", driver.event(stream))["count"] == 2
    assert driver.event(without)["code"] == "worker_died"


def test_a_worker_that_dies_again_and_again(start: Start) -> None:
    driver = start(workers=1)
    for _ in range(3):
        driver.kill_worker(driver.pids()[0])
        assert driver.call("ping", retries=1)["type"] == "pong"  # it may be sent before the death is seen


def test_the_next_worker_of_one_that_recycles(start: Start) -> None:
    driver = start("--max-requests", "5", workers=1)
    pids = {driver.call("kit.where")["pid"] for _ in range(20)}
    assert len(pids) >= 3


# ---- pools -----------------------------------------------------------------------------------------


def both(driver: Driver) -> list[int]:
    """The pids of two workers, as soon as both are up."""
    deadline = time.monotonic() + 10
    while len(pids := driver.pids()) < 2:
        assert time.monotonic() < deadline, f"the workers that are up: {pids}"
        driver.call("kit.where", {"pause_ms": 5})
    return pids


def test_a_pool_uses_its_workers_evenly(start_pool: Start) -> None:
    driver = start_pool(workers=2)
    pids = both(driver)
    refs = [driver.do("call", command="kit.where", args={"pause_ms": 300}) for _ in range(10)]
    used = Counter(driver.expect("result", driver.event(ref))["chunk"]["pid"] for ref in refs)
    assert used == dict.fromkeys(pids, 5)


def test_one_workers_death_leaves_the_others_alone(start_pool: Start) -> None:
    driver = start_pool(workers=2)
    pids = both(driver)
    refs = [driver.stream("kit.count", {"n": 100, "pause_ms": 8}, report="chunks") for _ in range(2)]
    for ref in refs:
        assert driver.event(ref)["chunk"]["n"] == 0
    driver.kill_worker(pids[0])
    ends: Counter[str] = Counter()
    for ref in refs:
        while (event := driver.event(ref))["event"] == "chunk":
            pass
        ends[event.get("code") or f"{event['event']} {event['count']}"] += 1
    assert ends == {"worker_died": 1, "ended 101": 1}
    assert len(set(both(driver)) - set(pids)) == 1


# ---- the host dies ---------------------------------------------------------------------------------


@pytest.fixture
def host(language: str) -> Iterator[Driver]:
    """A driver that nobody else uses."""
    with Driver(COMMANDS[language]) as driver:
        yield driver
        driver.process.kill()


def kill_host(host: Driver, worker: int) -> None:
    os.kill(host.process.pid, signal.SIGKILL)
    try:
        wait_gone(worker, GONE_S)
    finally:
        if alive(worker):
            os.kill(worker, signal.SIGKILL)


def test_a_killed_host_leaves_no_idle_worker(host: Driver) -> None:
    host.start(command_line())
    kill_host(host, host.pids()[0])


def test_a_killed_host_leaves_no_worker_in_a_call_that_holds_the_gil(host: Driver) -> None:
    host.start(command_line("--die-with-parent"))
    [worker] = host.pids()
    ref = host.stream("kit.hold_gil", {"seconds": 30}, report="chunks")
    assert host.event(ref)["chunk"]["type"] == "started"
    until_still(worker)
    kill_host(host, worker)


def test_a_killed_host_leaves_no_worker_before_a_full_pipe(host: Driver) -> None:
    host.start(command_line())
    [worker] = host.pids()
    host.stream("kit.flood", {"size": 1_000_000}, credit=512)
    host.call("ping")
    os.kill(host.process.pid, signal.SIGSTOP)
    until_still(worker)
    assert alive(worker)
    kill_host(host, worker)


def until_still(pid: int, still_s: float = 0.3) -> None:
    """Come back when a process has used no processor time for a while: it waits for somebody."""
    process, deadline = psutil.Process(pid), time.monotonic() + 15
    used, since = -1.0, time.monotonic()
    while time.monotonic() - since < still_s:
        assert time.monotonic() < deadline, "the worker is busy all the time"
        if (now := sum(process.cpu_times()[:2])) != used:
            used, since = now, time.monotonic()
        time.sleep(0.02)  # nothing tells that nothing happens


def test_a_host_that_is_done_takes_its_worker_along(host: Driver) -> None:
    host.start(command_line())
    [worker] = host.pids()
    assert host.end() == 0
    assert not alive(worker)
