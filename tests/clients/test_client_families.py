"""Every client with a family of workers behind its one pipe: nothing is different for it."""

from __future__ import annotations

from tests.support.drivers import Start
from tests.support.worker import alive

FAMILY = ("--workers", "2", "--commands", "tests.support.family_commands")


def test_streams_of_a_family(start: Start) -> None:
    driver = start(*FAMILY)
    refs = [driver.stream("kit.count", {"n": 2000 + number}, credit=64) for number in range(8)]
    for number, ref in enumerate(refs):
        event = driver.expect("ended", driver.event(ref))
        assert (event["count"], event["in_order"], event["type"]) == (2001 + number, True, "complete")
    told = driver.call("stats")
    rows = [row for row in told["workers"] if row["state"] == "serving"]
    assert len(rows) == 2
    assert all(row["taken"] for row in rows)


def test_a_death_in_a_family_is_an_error_of_its_requests(start: Start) -> None:
    driver = start(*FAMILY)
    [supervisor] = driver.pids()
    other = driver.stream("kit.count", {"n": 50, "pause_ms": 10})
    event = driver.event(driver.do("call", command="fam.die", args={"how": "kill", "chunks": 3}))
    assert (event["event"], event["code"], event["retryable"]) == ("failed", "worker_died", True)
    assert driver.expect("ended", driver.event(other))["count"] == 51
    assert driver.pids() == [supervisor]
    assert alive(supervisor)


def test_what_is_set_is_set_in_the_whole_family(start: Start) -> None:
    driver = start(*FAMILY)
    assert driver.call("fam.set", {"value": 7})["type"] == "result"
    refs = [driver.do("call", command="fam.get", args={"pause_s": 0.05}) for _ in range(6)]
    ends = [driver.expect("result", driver.event(ref))["chunk"] for ref in refs]
    assert {end["state"]["default"]["value"] for end in ends} == {7}
