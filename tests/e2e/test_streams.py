"""Chunks and terminals, through a real worker: one promise of PROTOCOL.md a test."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.worker import Worker, types

ENDLESS = ["kit.hold", "kit.sync_hold", "kit.flood", "kit.sync_flood", "kit.stubborn"]


def dones(worker: Worker, request_id: str | int) -> int:
    return sum(1 for chunk in worker.received if chunk["id"] == request_id and "done" in chunk)


def test_ready_is_the_first_line_and_says_what_the_worker_is(worker: Worker) -> None:
    ready = worker.ready
    assert (ready["id"], ready["protocol"], ready["pid"]) == (None, 1, worker.pid)
    assert ready["limits"] == {
        "max_line_bytes": 8 * 2**20, "max_depth": 128, "max_inflight": 1024,
        "max_queued": 4096, "max_queued_bytes": 64 * 2**20,
    }  # fmt: skip
    assert {"ping", "describe", "stats", "configure", "kit.count"} <= set(ready["commands"])


def test_bye_is_the_last_line(framing: str, spawn: Spawn) -> None:
    chunks, code = spawn(framing=framing).end()
    assert chunks == [{"id": None, "type": "bye", "reason": "eof"}]
    assert code == 0


@pytest.mark.parametrize("command", ["kit.count", "kit.sync_count"])
def test_a_stream_keeps_its_order_and_ends_with_complete(command: str, framing: str, spawn: Spawn) -> None:
    worker = spawn(framing=framing)
    chunks = worker.stream(command, {"n": 1000})
    assert [chunk["n"] for chunk in chunks[:-1]] == list(range(1000))
    assert chunks[-1]["type"] == "complete"


@pytest.mark.parametrize("command", ["kit.echo", "kit.sync_echo"])
def test_a_command_that_gives_one_answer_ends_with_one_result_chunk(command: str, worker: Worker) -> None:
    chunks = worker.stream(command, {"a": [1]})
    assert types(chunks) == ["result"]
    assert chunks[0]["echo"] == {"a": [1]}


def test_ping_answers_with_pong_and_its_data(worker: Worker) -> None:
    chunks = worker.stream("ping", {"data": {"x": 2**70}})
    assert types(chunks) == ["pong"]
    assert chunks[0]["data"] == {"x": 2**70}


@pytest.mark.parametrize("kind", ["none", "list", "number", "final", "struct"])
def test_every_kind_of_result_is_one_terminal_chunk(kind: str, worker: Worker) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "none": {"type": "result"},
        "list": {"type": "result", "value": [1, 2]},
        "number": {"type": "result", "value": 5},
        "final": {"type": "verdict"},
        "struct": {"type": "verdict", "ok": True},
    }
    expected = kinds[kind]
    assert worker.stream("kit.result", {"kind": kind}, id="r") == [
        {"id": "r", "seq": 0, **expected, "done": True}
    ]


@pytest.mark.parametrize("command", ["kit.final", "kit.sync_final"])
def test_a_type_name_alone_is_never_terminal_and_final_is(command: str, worker: Worker) -> None:
    chunks = worker.stream(command)
    assert chunks[0]["type"] == "complete"
    assert chunks[-1]["type"] == "verdict"
    assert "after final" not in worker.call("kit.seen")["seen"]


def test_typed_chunks_and_a_typed_final_chunk(worker: Worker) -> None:
    assert types(worker.stream("kit.typed", {"n": 2})) == ["row", "row", "verdict"]


def test_a_handler_can_not_shadow_id_seq_and_done(worker: Worker) -> None:
    first, last = worker.stream("kit.shadow", id="r")
    assert first == {"id": "r", "seq": 0, "type": "chunk", "n": 1}
    assert last == {"id": "r", "seq": 1, "type": "complete", "n": 2, "done": True}


HOWS = [
    "error", "empty", "exit", "interrupt", "base", "cancelled", "stop", "stop_async", "generator_exit",
    "recursion", "memory", "timeout",
]  # fmt: skip


@pytest.mark.parametrize("command", ["kit.fail", "kit.sync_fail", "kit.fail_call", "kit.sync_fail_call"])
def test_whatever_a_handler_raises_ends_its_stream_with_one_error(command: str, worker: Worker) -> None:
    after = 2 if not command.endswith("call") else 0
    for how in HOWS:
        chunks = worker.stream(command, {"how": how, "after": after})
        assert len(chunks) == after + 1, (how, chunks)
        last = chunks[-1]
        assert (last["type"], last["code"], last["retryable"], last["done"]) == (
            "error",
            "internal",
            False,
            True,
        ), how
        assert "Traceback" not in last["error"]
    assert worker.call("ping")["type"] == "pong"


def test_a_bridge_error_keeps_its_code_and_hint(worker: Worker) -> None:
    last = worker.call("kit.fail", {"how": "bridge"})
    assert (last["code"], last["retryable"], last["retry_after_ms"]) == ("lm_rate_limit", True, 1200)
    assert last["details"] == {"status": 429}


def test_error_texts_hold_no_path_and_no_stack_trace(spawn: Spawn) -> None:
    last = spawn().call("kit.fail", {"how": "path"})
    assert "place.txt" in last["error"]
    assert "/" not in last["error"]
    assert "details" not in last


def test_debug_adds_a_traceback(spawn: Spawn) -> None:
    last = spawn("--debug").call("kit.fail", {"how": "error"})
    assert "ValueError: no luck" in last["details"]["traceback"]


@pytest.mark.parametrize("command", ENDLESS)
def test_cancel_ends_a_request_with_exactly_one_done(command: str, worker: Worker) -> None:
    request = worker.request(command, credit=5)
    worker.wait_for(lambda chunk: chunk["id"] == request)
    worker.control("cancel", target=request)
    worker.control("cancel", target=request)
    last = worker.collect(request, timeout=3)[-1]
    assert (last["type"], last["reason"]) == ("cancelled", "client")
    worker.sync()
    assert dones(worker, request) == 1


@pytest.mark.parametrize("command", ENDLESS)
def test_a_deadline_ends_a_request_with_exactly_one_done(command: str, worker: Worker) -> None:
    request = worker.request(command, credit=5, timeout_ms=100)
    last = worker.collect(request, timeout=3)[-1]
    assert (last["code"], last["retryable"]) == ("deadline_exceeded", True)
    worker.sync()
    assert dones(worker, request) == 1


@pytest.mark.parametrize("command", ENDLESS)
def test_an_abort_ends_a_request_with_exactly_one_done(command: str, worker: Worker) -> None:
    request = worker.request(command, credit=5)
    worker.wait_for(lambda chunk: chunk["id"] == request)
    worker.send(command="shutdown", args={"mode": "abort"}, id="down")
    chunks = worker.rest()
    assert [c["type"] for c in chunks if c["id"] == "down"] == ["ok"]
    assert [(c["type"], c["reason"]) for c in chunks if c["id"] == request and "done" in c] == [
        ("cancelled", "shutdown")
    ]
    assert chunks[-1]["type"] == "bye"
    assert worker.wait() == 0


def test_a_cancel_in_the_queue_ends_the_request(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1")
    first, second = worker.request("kit.hold"), worker.request("kit.hold")
    worker.control("cancel", target=second)
    assert worker.collect(second)[-1]["type"] == "cancelled"
    worker.control("cancel", target=first)
    assert worker.collect(first)[-1]["type"] == "cancelled"


def test_a_cancel_for_unknown_or_ended_targets_is_ignored(worker: Worker) -> None:
    worker.call("ping", id="over")
    worker.control("cancel", target="over")
    worker.control("cancel", target="never")
    assert worker.call("ping")["type"] == "pong"
    assert all("error" not in chunk for chunk in worker.received)


def test_the_timeout_counts_time_in_the_queue(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1")
    worker.request("kit.hold", id="first")
    assert worker.call("kit.echo", timeout_ms=100)["code"] == "deadline_exceeded"
    worker.control("cancel", target="first")
    worker.collect("first")


def test_an_id_is_free_for_reuse_once_its_done_is_out(worker: Worker) -> None:
    for _ in range(20):
        assert worker.stream("kit.count", {"n": 2}, id="same")[-1]["seq"] == 2


@pytest.mark.parametrize(
    "request_id", ["1", 1, 0, -5, 2**53, -(2**53), "x" * 128, "é" * 64, '"\\%d\n\u2028', "\x00"]
)
def test_ids_of_every_form_come_back_with_their_type(
    request_id: str | int, framing: str, spawn: Spawn
) -> None:
    last = spawn(framing=framing).call("kit.count", id=request_id)
    assert (last["id"], type(last["id"])) == (request_id, type(request_id))


def test_the_number_1_and_the_text_1_are_two_ids(worker: Worker) -> None:
    worker.request("kit.hold", id=1)
    worker.request("kit.hold", id="1")
    worker.control("cancel", target="1")
    assert worker.collect("1")[-1]["type"] == "cancelled"
    worker.sync()
    assert dones(worker, 1) == 0
    worker.control("cancel", target=1)
    assert worker.collect(1)[-1]["type"] == "cancelled"


def test_a_duplicate_id_is_answered_with_id_null_and_the_stream_goes_on(worker: Worker) -> None:
    worker.request("kit.hold", id="dup")
    worker.request("kit.count", id="dup")
    error = worker.bad_line()
    assert (error["code"], error["details"]) == ("duplicate_id", {"target": "dup"})
    worker.call("kit.release")
    assert types(worker.collect("dup")) == ["started", "released", "complete"]


def test_a_bad_line_with_an_id_in_flight_does_not_look_like_its_end(worker: Worker) -> None:
    worker.request("kit.hold", id="busy")
    worker.send(id="busy", command=5)
    error = worker.bad_line()
    assert error["code"] == "invalid_request"
    assert error["details"]["target"] == "busy"
    worker.call("kit.release")
    assert worker.collect("busy")[-1]["type"] == "complete"


def test_controls_are_answered_only_when_they_have_an_id(worker: Worker) -> None:
    worker.request("kit.hold", id="t")
    worker.control("credit", target="t", n=1)
    worker.send(id="c1", command="credit", args={"target": "t", "n": 1})
    assert types(worker.collect("c1")) == ["ok"]
    worker.send(id="c2", command="cancel", args={"target": "t"})
    assert types(worker.collect("c2")) == ["ok"]
    assert worker.collect("t")[-1]["type"] == "cancelled"
    assert {c["id"] for c in worker.received} == {None, "t", "c1", "c2"}


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("cancel", {}),
        ("cancel", {"target": 1.5}),
        ("cancel", {"target": ""}),
        ("cancel", {"target": "a", "x": 1}),
        ("credit", {"target": "a"}),
        ("credit", {"target": "a", "n": 0}),
        ("credit", {"target": "a", "n": "5"}),
        ("credit", {"target": "a", "n": 2**31 + 1}),
        ("shutdown", {"mode": "now"}),
        ("shutdown", {"grace_ms": -1}),
        ("tool_result", {"target": "a", "call_id": "c1"}),
        ("tool_result", {"target": "a", "value": 1}),
        ("tool_result", {"target": "a", "call_id": "c1", "value": 1, "error": "x"}),
    ],
)
def test_a_malformed_control_gets_an_error(command: str, args: dict[str, Any], worker: Worker) -> None:
    worker.send(command=command, args=args)
    assert worker.bad_line()["code"] == "invalid_args"
    assert worker.call(command, args)["code"] == "invalid_args"
    assert worker.call("ping")["type"] == "pong"


def test_an_unknown_command_is_told_with_names_near_it(worker: Worker) -> None:
    last = worker.call("kit.cuont")
    assert (last["code"], last["retryable"]) == ("unknown_command", False)
    assert "kit.count" in last["details"]["did_you_mean"]


def test_unknown_args_are_named_and_typed_args_decoded(worker: Worker) -> None:
    assert worker.call("kit.args", {"items": [{"text": "a"}]})["items"] == [{"text": "a", "weight": 1.0}]
    last = worker.call("kit.args", {"items": [], "limt": 3})
    assert (last["code"], last["details"]["path"]) == ("invalid_args", "$.args.limt")
    assert "limt" in last["error"]
    last = worker.call("kit.args", {"items": [{"text": 5}]})
    assert last["details"]["path"] == "$.args.items[0].text"
    assert worker.call("kit.no_args", {"x": 1})["code"] == "invalid_args"
    assert worker.call("kit.no_args")["fine"] is True


def test_unknown_top_level_fields_are_ignored(worker: Worker) -> None:
    assert worker.call("ping", newer={"a": 1})["type"] == "pong"


def test_a_handler_knows_its_request(worker: Worker) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    last = worker.call("kit.context", id=7, timeout_ms=60_000, traceparent=trace)
    assert (last["request_id"], last["command"], last["traceparent"]) == (7, "kit.context", trace)
    assert 0 < last["remaining_ms"] <= 60_000
    for bad in ("nonsense", 5, None, "00-" + "0" * 32 + "-b7ad6b7169203331-01"):
        last = worker.call("kit.context", traceparent=bad)
        assert (last["traceparent"], last["remaining_ms"]) == (None, None)


def test_any_value_a_handler_yields_is_written(framing: str, spawn: Spawn) -> None:
    chunks = spawn(framing=framing).stream("kit.values")
    found = {chunk["name"]: chunk["value"] for chunk in chunks if chunk["type"] == "value"}
    assert found["big"] == 10**40
    assert found["nan"] is None
    assert found["cycle"] == {"n": 1, "self": {"__repr__": "dict"}}
    assert chunks[-1]["type"] == "complete"


def test_separators_are_escaped_and_come_back_whole(framing: str, spawn: Spawn) -> None:
    last = spawn(framing=framing).call("kit.split")
    assert last["text"].startswith("a\u2028b\u2029c\x85d\ne\rf")


@pytest.mark.parametrize("command", ["kit.count", "kit.sync_count"])
def test_a_chunk_over_the_limit_is_replaced_and_keeps_its_seq(command: str, spawn: Spawn) -> None:
    worker = spawn("--max-line-bytes", "2000")
    chunks = worker.stream(command, {"n": 2, "size": 3000})
    assert [(c["type"], c.get("code")) for c in chunks] == [("error", "limit_exceeded")] * 2 + [
        ("complete", None)
    ]
    assert "done" not in chunks[0]


@pytest.mark.parametrize("command", ["kit.count", "kit.sync_count"])
def test_no_chunk_is_sent_beyond_the_credit_and_done_needs_none(command: str, worker: Worker) -> None:
    worker.request(command, {"n": 10}, id="r", credit=3)
    worker.wait_for(lambda c: c["id"] == "r" and c["seq"] == 2)
    for _ in range(5):
        worker.sync()
    assert sum(c["id"] == "r" for c in worker.received) == 3
    worker.control("credit", target="r", n=2)
    worker.wait_for(lambda c: c["id"] == "r" and c["seq"] == 4)
    worker.sync()
    assert sum(c["id"] == "r" for c in worker.received) == 5
    worker.control("credit", target="r", n=5)
    assert worker.collect("r")[-1]["seq"] == 10, "ten chunks, and done without credit"


def test_credit_for_a_stream_without_bounds_is_ignored(worker: Worker) -> None:
    worker.request("kit.hold", id="r")
    worker.control("credit", target="r", n=1)
    worker.call("kit.release")
    assert types(worker.collect("r")) == ["started", "released", "complete"]


@pytest.mark.parametrize("command", ["kit.count", "kit.sync_count"])
def test_after_eof_credit_is_unlimited(command: str, worker: Worker) -> None:
    worker.request(command, {"n": 50}, id="r", credit=1)
    worker.type("chunk", "r")
    chunks, code = worker.end()
    assert sum(c["id"] == "r" for c in chunks) == 50
    assert code == 0


def test_a_bound_of_one_in_flight_queues_in_order(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1")
    ids = [worker.request("kit.count", {"n": 2}) for _ in range(20)]
    for request in ids:
        worker.collect(request)
    assert [c["id"] for c in worker.received if "done" in c] == ids


def test_past_max_queued_a_request_is_overloaded(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1", "--max-queued", "2")
    ids = [worker.request("kit.hold") for _ in range(3)]
    last = worker.call("kit.hold")
    assert (last["code"], last["retryable"], last["details"]["limit"]) == ("overloaded", True, "max_queued")
    assert worker.call("ping")["type"] == "pong"
    worker.control("cancel", target=ids[1])
    worker.collect(ids[1])
    again = worker.request("kit.echo")
    worker.call("cancel", {"target": ids[0]})
    worker.call("cancel", {"target": ids[2]})
    assert worker.collect(again)[-1]["type"] == "result"


def test_past_max_queued_bytes_a_request_is_overloaded(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1", "--max-queued-bytes", "1000")
    worker.request("kit.hold")
    worker.request("kit.echo", {"a": "x" * 600})
    assert worker.call("kit.echo", {"a": "x" * 600})["details"]["limit"] == "max_queued_bytes"


def test_requests_interleave(worker: Worker) -> None:
    for name in ("a", "b"):
        worker.request("kit.hold", {"gate": name}, id=name)
    worker.call("kit.release", {"gate": "b"})
    worker.collect("b")
    worker.call("kit.release", {"gate": "a"})
    worker.collect("a")


def test_1000_concurrent_streams_all_end(framing: str, spawn: Spawn) -> None:
    worker = spawn(framing=framing)
    ids = [worker.request("kit.count", {"n": 5}) for _ in range(1000)]
    for request in ids:
        assert len(worker.collect(request)) == 6


def test_a_context_variable_is_kept_between_yields_and_not_shared(worker: Worker) -> None:
    for mark in ("one", "two"):
        rows = worker.stream("kit.variables", {"mark": mark})[:-1]
        assert [(row["before"], row["mark"]) for row in rows] == [("unset", mark)] * 3


def test_emit_sends_chunks_from_inside_callbacks(worker: Worker) -> None:
    worker.request("kit.emit", {"n": 10}, id="e", credit=1)
    worker.type("part", "e")
    worker.control("credit", target="e", n=19)
    chunks = worker.collect("e")
    assert types(chunks) == ["part"] * 20 + ["result"]


def test_a_task_left_behind_neither_writes_nor_waits_for_ever(worker: Worker) -> None:
    assert types(worker.stream("kit.leaves_tasks", credit=1)) == ["result"]
    for _ in range(500):
        if "late task ended" in worker.call("kit.seen")["seen"]:
            break
        worker.call("kit.count", {"n": 1, "pause_ms": 5})
    else:
        pytest.fail("the task waits for ever")
    assert "late" not in types(worker.received)


def test_what_a_stubborn_handler_yields_after_cancel_is_dropped_and_it_is_stopped(worker: Worker) -> None:
    request = worker.request("kit.stubborn", credit=3)
    worker.type("stubborn", request)
    worker.control("cancel", target=request)
    worker.collect(request)
    worker.call("kit.count", {"n": 1, "pause_ms": 50})
    before = worker.call("kit.seen")["seen"]["stubborn"]
    worker.call("kit.count", {"n": 1, "pause_ms": 50})
    assert worker.call("kit.seen")["seen"]["stubborn"] == before


def test_describe_shows_schemas_docs_and_limits(worker: Worker) -> None:
    last = worker.call("describe")
    assert last["streaming"] is True
    assert last["limits"] == worker.ready["limits"]
    described = last["commands"]["kit.args"]
    assert described["doc"] == "Answer with what was decoded."
    assert described["args"]["required"] == ["items"]
    assert set(last["commands"]) == set(worker.ready["commands"])


# ---- asking the host ---------------------------------------------------------------------------------


def test_a_tool_call_is_answered_by_tool_result(worker: Worker) -> None:
    worker.request("kit.ask", {"n": 3}, id="a")
    for value in ("one", None, {"deep": [2**70]}):
        call = worker.type("tool_call", "a")
        worker.control("tool_result", target="a", call_id=call["call_id"], value=value)
        assert worker.type("observation", "a")["answer"] == value
    assert worker.collect("a")[-1]["type"] == "complete"


def test_many_calls_at_once_are_told_apart(worker: Worker) -> None:
    worker.request("kit.ask_all", {"n": 20}, id="a")
    calls = [worker.type("tool_call", "a") for _ in range(20)]
    for call in reversed(calls):
        worker.control("tool_result", target="a", call_id=call["call_id"], value=call["i"])
    assert worker.collect("a")[-1]["answers"] == list(range(20))


def test_an_error_from_the_host_is_a_tool_error(worker: Worker) -> None:
    worker.request("kit.ask", id="a")
    call = worker.type("tool_call", "a")
    worker.control("tool_result", target="a", call_id=call["call_id"], error="no such thing")
    last = worker.collect("a")[-1]
    assert (last["code"], last["error"]) == ("tool_error", "no such thing")


def test_no_answer_in_time_is_a_tool_timeout(worker: Worker) -> None:
    assert worker.call("kit.ask", {"timeout_s": 0.05})["code"] == "tool_timeout"


def test_late_and_doubled_tool_results_are_ignored_and_counted(worker: Worker) -> None:
    before = worker.call("stats")["late_tool_results"]
    worker.request("kit.ask", {"n": 2}, id="a")
    call = worker.type("tool_call", "a")
    for _ in range(3):
        worker.control("tool_result", target="a", call_id=call["call_id"], value=1)
    worker.control("tool_result", target="gone", call_id="c1", value=1)
    assert worker.call("stats")["late_tool_results"] == before + 3
    worker.control("cancel", target="a")
    worker.collect("a")


def test_an_unknown_call_id_is_invalid_args_if_the_control_has_an_id(worker: Worker) -> None:
    worker.request("kit.ask", id="a")
    worker.type("tool_call", "a")
    args = {"target": "a", "call_id": "c99", "value": 1}
    worker.control("tool_result", **args)
    last = worker.call("tool_result", args)
    assert (last["code"], last["details"]["path"]) == ("invalid_args", "$.args.call_id")
    assert [c for c in worker.received if c["id"] is None] == [worker.ready], "without an id it is silent"


def test_after_eof_open_and_later_tool_calls_fail_with_tool_error(worker: Worker) -> None:
    worker.request("kit.ask", id="a")
    worker.type("tool_call", "a")
    chunks, code = worker.end()
    assert [c["code"] for c in chunks if c["id"] == "a"] == ["tool_error"]
    assert code == 0


def test_threads_can_not_ask(worker: Worker) -> None:
    assert "asynchronous" in worker.call("kit.sync_ask")["refused"]
