"""The table of requests as a state machine, against the simplest model of what PROTOCOL promises."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.errors import BridgeError, Code
from bridge.wire.chunks import ChunkFormat
from bridge.wire.messages import Envelope, RequestId
from bridge.wire.session import State, Stream
from bridge.wire.sessions import Sessions
from tests.support.wirecheck import Checker, Key, key_of

INFLIGHT, QUEUED, QUEUED_BYTES = 3, 4, 60
IDS = st.sampled_from([1, "1", "a", 2, "é%d", -5, "b", "c", "d", 3])


class Model:
    """One request as the model sees it."""

    def __init__(self, stream: Stream, weight: int, credit: int | None) -> None:
        self.stream = stream
        self.weight = weight
        self.credit = credit


class Table(RuleBasedStateMachine):
    """Admission, order, credit, ``seq`` and exactly one ``done``, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        chunk_format = ChunkFormat(framing="lines", max_line_bytes=4096, max_depth=16)
        self.sessions = Sessions(
            chunk_format, max_inflight=INFLIGHT, max_queued=QUEUED, max_queued_bytes=QUEUED_BYTES
        )
        self.out = bytearray()
        self.read = 0
        self.checker = Checker()
        self.checker.parse(b'{"id":null,"type":"ready"}')
        self.running: dict[Key, Model] = {}
        self.queue: list[Key] = []
        self.waiting: dict[Key, Model] = {}
        self.ended: list[Model] = []
        self.dones: dict[Key, int] = {}
        self.admitted: dict[Key, int] = {}

    def model(self, key: Key) -> Model | None:
        return self.running.get(key) or self.waiting.get(key)

    @rule(request_id=IDS, size=st.integers(0, 30), credit=st.none() | st.integers(1, 4))
    def admit(self, request_id: RequestId, size: int, credit: int | None) -> None:
        key = key_of(request_id)
        args = msgspec.Raw(json.dumps({"a": "x" * size}).encode())
        weight = len(bytes(args))
        request = Envelope(command="x", id=request_id, args=args, credit=credit)
        try:
            stream = self.sessions.admit(request, 0.0, weight)
        except BridgeError as error:
            self.refused(error, key, weight)
            return
        assert self.model(key) is None
        self.admitted[key] = self.admitted.get(key, 0) + 1
        item = Model(stream, weight, credit)
        if stream.state is State.RUNNING:
            assert len(self.running) < INFLIGHT
            assert not self.waiting
            self.running[key] = item
        else:
            assert stream.state is State.QUEUED
            assert self.waiting or len(self.running) == INFLIGHT
            self.waiting[key] = item
            self.queue.append(key)

    def refused(self, error: BridgeError, key: Key, weight: int) -> None:
        if error.code == Code.DUPLICATE_ID:
            assert self.model(key) is not None
            assert error.details == {"target": key[1]}
            return
        assert error.code == Code.OVERLOADED
        assert error.retryable
        assert self.model(key) is None
        waiting_bytes = sum(item.weight for item in self.waiting.values())
        assert len(self.waiting) >= QUEUED or waiting_bytes + weight > QUEUED_BYTES

    @rule()
    def promote(self) -> None:
        stream = self.sessions.promote()
        if stream is None:
            assert not self.waiting or len(self.running) == INFLIGHT
            return
        key = self.queue.pop(0)
        assert key_of(stream.id) == key, "the oldest comes first"
        self.running[key] = self.waiting.pop(key)
        assert stream.state is State.RUNNING

    @precondition(lambda self: self.running)
    @rule(data=st.data(), many=st.integers(1, 4))
    def send(self, data: Any, many: int) -> None:
        item = self.running[data.draw(st.sampled_from(sorted(self.running, key=str)))]
        for _ in range(many):
            assert item.stream.starved == (item.credit is not None and item.credit <= 0)
            if item.stream.starved:
                return
            item.stream.chunk({"type": "x"}, self.out)
            if item.credit is not None:
                item.credit -= 1

    @rule(request_id=IDS, count=st.integers(1, 3))
    def grant(self, request_id: RequestId, count: int) -> None:
        item = self.model(key_of(request_id))
        stream = self.sessions.get(request_id)
        assert stream is (item.stream if item else None)
        if item is not None:
            item.stream.grant(count)
            if item.credit is not None:
                item.credit += count

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted([*self.running, *self.waiting], key=str)))
        item = self.running.pop(key, None)
        if item is None:
            item = self.waiting.pop(key)
            self.queue.remove(key)
        assert self.sessions.finish(item.stream, {"type": "complete"}, self.out)
        self.ended.append(item)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def go_on_after_the_end(self, data: Any) -> None:
        """What comes after ``done`` is dropped, and a second end does not happen."""
        item = data.draw(st.sampled_from(self.ended))
        before = bytes(self.out)
        item.stream.chunk({"type": "late"}, self.out)
        assert not self.sessions.finish(item.stream, {"type": "again"}, self.out)
        assert bytes(self.out) == before

    @invariant()
    def counts_are_right(self) -> None:
        assert self.sessions.running == len(self.running)
        assert self.sessions.queued == len(self.waiting)
        assert self.sessions.queued_bytes == sum(item.weight for item in self.waiting.values())
        assert len(self.sessions) == len(self.running) + len(self.waiting)
        in_flight = {key_of(stream.id) for stream in self.sessions.in_flight()}
        assert in_flight == {*self.running, *self.waiting}

    @invariant()
    def what_was_written_keeps_the_protocol(self) -> None:
        *lines, rest = bytes(self.out[self.read :]).split(b"\n")
        assert not rest
        self.read = len(self.out)
        for line in lines:
            chunk = self.checker.parse(line)
            if "done" in chunk:
                key = key_of(chunk["id"])
                self.dones[key] = self.dones.get(key, 0) + 1
        for key, count in self.admitted.items():
            assert self.dones.get(key, 0) == count - (self.model(key) is not None), "exactly one done"


Table.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, database=None)
TestTable = Table.TestCase


def test_a_call_is_answered_once() -> None:
    from bridge.wire.calls import Calls

    calls = Calls()
    first, second = calls.issue(), calls.issue()
    assert first != second
    assert calls.answer(first)
    assert not calls.answer(first)
    calls.drop(second)
    assert not calls.answer(second)
    for unknown in ("c3", "c0", "", "x", "c01", "c-1", "C1", "c1 ", "c٣", "c" + "9" * 500):
        with pytest.raises(BridgeError) as caught:
            calls.answer(unknown)
        assert caught.value.code == Code.INVALID_ARGS
