"""Credit, cancel, deadlines and a host that does not read, through the hop: as with one process."""

from __future__ import annotations

import json
import threading
import time

from tests.family.conftest import Family
from tests.support.processes import all_serving, everybody
from tests.support.worker import PATIENCE, memory_mb


def test_credit_is_the_workers(family: Family) -> None:
    worker = family()
    worker.request("kit.count", {"n": 1000}, id="c", credit=3)
    for _ in range(3):
        worker.type("chunk", "c")
    worker.sync()
    assert worker.call("stats")["running"] == 2
    assert not [c for c in worker.received if c["id"] == "c" and c["seq"] > 2]
    worker.control("credit", target="c", n=2000)
    assert len(worker.collect("c")) == 1001


def test_credit_granted_in_the_queue_counts(family: Family) -> None:
    worker = family("--max-inflight", "1")
    worker.request("kit.hold", id="slot")
    worker.type("started", "slot")
    worker.request("kit.count", {"n": 6}, id="c", credit=2)
    worker.control("credit", target="c", n=2)
    worker.control("cancel", target="slot")
    for _ in range(4):
        worker.type("chunk", "c")
    worker.sync()
    assert worker.received[-1]["type"] == "pong"
    worker.control("credit", target="c", n=2)
    assert [chunk["n"] for chunk in worker.collect("c")[:-1]] == [*range(6)]


def test_credit_granted_in_the_queue_may_be_more_than_a_request_may_ask_for(family: Family) -> None:
    worker = family("--max-inflight", "1")
    worker.request("kit.hold", id="slot")
    worker.type("started", "slot")
    worker.request("kit.count", {"n": 6}, id="c", credit=2**31)
    worker.control("credit", target="c", n=2**31)
    worker.control("cancel", target="slot")
    assert worker.collect("c")[-1]["type"] == "complete"


def test_what_is_cancelled_in_the_queue_never_runs(family: Family) -> None:
    worker = family("--max-inflight", "1")
    worker.request("kit.hold", id="slot")
    worker.type("started", "slot")
    worker.request("kit.count", {"n": 6}, id="c")
    worker.send(id="x", command="cancel", args={"target": "c"})
    assert worker.collect("c") == [
        {"id": "c", "seq": 0, "type": "cancelled", "reason": "client", "done": True}
    ]
    assert worker.collect("x")[-1]["type"] == "ok"


def test_time_in_the_queue_counts(family: Family) -> None:
    worker = family("--max-inflight", "1")
    worker.request("kit.hold", id="slot")
    worker.type("started", "slot")
    assert worker.call("kit.echo", timeout_ms=100)["code"] == "deadline_exceeded"
    begin = time.monotonic()
    worker.request("kit.hold", {"gate": "2"}, id="h", timeout_ms=1500)
    threading.Timer(0.7, worker.control, ("cancel",), {"target": "slot"}).start()
    assert worker.collect("h")[-1]["code"] == "deadline_exceeded"
    assert time.monotonic() - begin < 2.2


def test_a_stuck_worker_does_not_keep_the_host_waiting(family: Family) -> None:
    worker = family()
    for request in ("a", "b"):
        worker.request(
            "kit.block_loop", {"seconds": 3}, id=request, timeout_ms=1000 if request == "b" else 60_000
        )
        worker.type("started", request)
    time.sleep(0.2)  # until the loops are blocked: only the handlers know when
    begin = time.monotonic()
    worker.control("cancel", target="a")
    assert worker.collect("a")[-1]["type"] == "cancelled"
    assert worker.collect("b")[-1]["code"] == "deadline_exceeded"
    assert time.monotonic() - begin < 2.2
    # Their ids are free; what the old ones still say goes nowhere.
    assert worker.call("kit.echo", {"x": 1}, id="c")["type"] == "result"
    last = worker.call("kit.echo", {"x": 1}, id="a")
    assert last["type"] == "result" or last["code"] == "overloaded"


def test_a_stuck_worker_does_not_draw_what_others_could_do(family: Family) -> None:
    worker = family("--hung-after-s", "60")
    all_serving(worker)
    worker.request("kit.hold", id="other")
    worker.type("started", "other")
    stuck = worker.request("kit.block_loop", {"seconds": 30}, timeout_ms=500)
    assert worker.collect(stuck)[-1]["code"] == "deadline_exceeded"
    for _ in range(3):  # the stuck one has nothing to do for the host
        assert worker.call("kit.where", timeout_ms=5000)["type"] == "result"


def test_an_id_may_be_used_again_at_once(family: Family) -> None:
    worker = family()
    for number in range(300):
        assert worker.call("kit.echo", {"n": number}, id="same")["echo"] == {"n": number}
    for _ in range(50):
        worker.request("kit.hold", id="same")
        worker.control("cancel", target="same")
        assert worker.collect("same")[-1]["type"] == "cancelled"


def test_a_duplicate_id_is_refused_whichever_worker_has_it(family: Family) -> None:
    worker = family("--workers", "3")
    for number in range(3):
        worker.request("kit.hold", {"gate": str(number)}, id=number)
        worker.type("started", number)
    for number in range(3):
        worker.request("kit.echo", id=number)
        error = worker.bad_line()
        assert (error["code"], error["details"]["target"]) == ("duplicate_id", number)


def test_tools_are_run_by_the_host(family: Family) -> None:
    worker = family()
    ids = [worker.request("kit.tool", {"name": "t", "args": {"n": n}}) for n in range(6)]
    calls = [worker.type("tool_call") for _ in ids]
    for call in calls:
        worker.control("tool_result", target=call["id"], call_id=call["call_id"], value=call["args"]["n"] * 2)
    assert [worker.collect(request)[-1]["value"] for request in ids] == [0, 2, 4, 6, 8, 10]


def test_a_control_is_answered_before_bye_whatever_its_worker_does(family: Family) -> None:
    worker = family()
    worker.request("kit.ask", id="a")
    call = worker.type("tool_call", "a")
    controls: list[dict[str, object]] = [
        {
            "id": "answer",
            "command": "tool_result",
            "args": {"target": "a", "call_id": call["call_id"], "value": 1},
        },
        {"command": "shutdown", "args": {"mode": "abort"}},
    ]
    worker.write("".join(json.dumps(control) + "\n" for control in controls).encode())
    rest = worker.rest()  # the checker sees to it that nothing follows bye
    assert sorted(str(chunk["id"]) for chunk in rest) == ["None", "a", "answer"]
    assert rest[-1]["type"] == "bye"


def test_a_control_does_not_wait_longer_than_its_target(family: Family) -> None:
    worker = family("--workers", "2", "--hung-after-s", "60")
    worker.request("kit.block_loop", {"seconds": 30}, id="b")
    worker.type("started", "b")
    time.sleep(0.2)  # until the loop is blocked: only the handler knows when
    worker.send(id="k", command="tool_result", args={"target": "b", "call_id": "c1", "value": 1})
    worker.control("cancel", target="b")
    assert worker.collect("b", 3)[-1]["type"] == "cancelled"
    assert worker.collect("k", 0.5)[-1]["type"] == "ok"
    worker.send(id="k", command="tool_result", args={"target": "b", "call_id": "c1", "value": 1})
    assert worker.collect("k", 0.5)[-1]["type"] == "ok", "its id is free"


def test_a_host_that_does_not_read_is_held_in_bounded_memory(family: Family) -> None:
    worker = family()
    ids = [worker.request("kit.flood", {"size": 1000}) for _ in range(4)]
    worker.type("chunk")
    pids = everybody(worker)
    before = settled(pids)
    for number in range(3000):  # nobody reads: all of it must go in
        worker.send(id=f"p{number}", command="ping")
    for request in ids:
        worker.control("cancel", target=request)
    assert sum(map(memory_mb, pids)) < before + 30
    for request in ids:
        assert worker.collect(request)[-1]["type"] == "cancelled"
    for number in range(3000):
        assert worker.collect(f"p{number}")[-1]["type"] == "pong"


def settled(pids: list[int]) -> float:
    """The memory of processes once it grows no more."""
    before, deadline = -1.0, time.monotonic() + PATIENCE
    pause = threading.Event()
    while (now := sum(map(memory_mb, pids))) != before:
        assert time.monotonic() < deadline
        before = now
        pause.wait(0.3)
    return now


def test_a_flood_in_one_worker_holds_up_no_other(family: Family) -> None:
    worker = family()
    floods = [worker.request("kit.flood", {"size": 5000}, id=f"f{n}") for n in range(2)]
    worker.type("chunk")
    slowest = 0.0
    for _ in range(20):
        begin = time.monotonic()
        assert worker.call("ping")["type"] == "pong"
        assert worker.call("kit.echo")["type"] == "result"
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 3
    counts = [sum(chunk["id"] == flood for chunk in worker.received) for flood in floods]
    assert min(counts) * 10 > max(counts), f"both are read from: {counts}"


def test_limits_are_the_familys(family: Family) -> None:
    worker = family("--workers", "3", "--max-inflight", "4", "--max-queued", "2")
    all_serving(worker, 3)
    ids = [worker.request("kit.hold", {"gate": str(n)}, id=n) for n in range(7)]
    assert worker.collect(6)[-1]["code"] == "overloaded"
    told = worker.call("stats")  # itself it takes no place
    assert (told["running"], told["queued"]) == (5, 2)
    for request in ids[:6]:
        worker.control("cancel", target=request)
    assert [worker.collect(request)[-1]["type"] for request in ids[:6]] == ["cancelled"] * 6
    told = worker.call("stats")
    assert (told["running"], told["queued"]) == (1, 0)


def test_a_chunk_of_any_size_passes_whole(family: Family, framing: str) -> None:
    worker = family(framing=framing)
    big = "x" * 3_000_000
    ids = [worker.request("kit.echo", {"text": big}) for _ in range(4)]
    for request in ids:
        assert worker.collect(request, 30)[-1]["echo"]["text"] == big


def test_lines_for_a_worker_that_does_not_read_are_bounded(family: Family) -> None:
    worker = family("--max-queued-bytes", "1000000", "--hung-after-s", "6")
    worker.request("kit.block_loop", {"seconds": 30}, id="stuck")
    worker.type("started", "stuck")
    time.sleep(0.2)  # until the loop is blocked: only the handler knows when
    before = memory_mb(worker.pid)
    tool = {"target": "stuck", "call_id": "c", "value": "v" * 1_000_000}
    line = json.dumps({"command": "tool_result", "args": tool})

    def flood() -> None:
        for _ in range(60):
            worker.line(line)

    thread = threading.Thread(target=flood)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive(), "the host has to wait"
    assert memory_mb(worker.pid) - before < 40
    assert worker.collect("stuck")[-1]["code"] == "worker_hung"
    thread.join(PATIENCE)
    worker.sync()


def test_a_line_that_its_worker_never_read_is_no_error_of_the_hosts(family: Family) -> None:
    worker = family()
    worker.request("kit.block_loop", {"seconds": 2}, id="stuck", timeout_ms=500)
    worker.type("started", "stuck")
    time.sleep(0.2)  # until the loop is blocked: only the handler knows when
    worker.control("tool_result", target="stuck", call_id="c", value="v" * 3_000_000)
    worker.close_stdin()
    rest = worker.rest()
    assert [(chunk["type"], chunk.get("code")) for chunk in rest] == [
        ("error", "deadline_exceeded"),
        ("bye", None),
    ]
