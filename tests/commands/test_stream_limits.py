"""Streams that are cut short, held back, or many: the model is read no further than the host wants."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.handlers import scripted
from tests.support.provider import MODELS, Provider, Recorded, Reply
from tests.support.streams import ADAPTERS, QA, Rig, asked, fit, joined, model, of, steps
from tests.support.worker import Worker, memory_mb, types

COMMANDS = ("stream_predict", "stream_chain_of_thought")

each_command = pytest.mark.parametrize("command", COMMANDS)
each_provider = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Provider() as provider, Worker() as worker:
        worker.call("stream_predict", {"question": "?", "lm": scripted()})  # DSPy is loaded now
        yield Rig(worker, provider)


@each_command
@each_provider
def test_cancel_ends_the_call_at_once(rig: Rig, name: str, command: str) -> None:
    worker, provider = rig
    provider.wait_for(lambda p: p.at_once == 0)
    provider.replies(lambda request: Reply(fit(request, QA), hang_after_tokens=6))
    request = rig.start(command, name, tokens=True)
    worker.type("token", request)
    begin = time.monotonic()
    worker.control("cancel", target=request)
    *chunks, last = worker.collect(request)
    assert (last["type"], last["reason"]) == ("cancelled", "client")
    assert last["usage"]["calls"] == 0, "what it had cost nobody knows"
    provider.wait_for(lambda p: p.at_once == 0)
    assert time.monotonic() - begin < 1.0
    assert of(chunks, "token")
    worker.sync()
    assert worker.received[-1]["type"] == "pong", "nothing follows"


@each_command
@each_provider
def test_a_deadline_ends_the_call(rig: Rig, name: str, command: str) -> None:
    worker, provider = rig
    provider.wait_for(lambda p: p.at_once == 0)
    provider.replies(lambda request: Reply(fit(request, QA), hang_after_tokens=6))
    begin = time.monotonic()
    worker.forget()
    args = {"question": "?", "tokens": True, "lm": model(provider, name)}
    *chunks, last = worker.stream(command, args, timeout_ms=250)
    assert (last["type"], last["code"]) == ("error", "deadline_exceeded")
    provider.wait_for(lambda p: p.at_once == 0)
    assert 0.25 <= time.monotonic() - begin < 1.25
    assert of(chunks, "token")


@pytest.mark.parametrize("adapter", ["chat", "xml"])
def test_cancel_while_the_model_is_asked_again(rig: Rig, adapter: str) -> None:
    worker, provider = rig
    provider.replies(lambda request: Reply("No.") if asked(request)[0] != "json" else Reply(hang=True))
    before = len(provider.requests)
    request = rig.start("stream_predict", adapter=adapter)
    provider.wait_for(lambda p: len(p.requests) == before + 2)
    worker.control("cancel", target=request)
    assert worker.collect(request)[-1]["type"] == "cancelled"
    provider.wait_for(lambda p: p.at_once == 0)


def test_cancel_while_a_retry_is_waited_for(rig: Rig) -> None:
    worker, provider = rig
    provider.replies(Reply(status=500, error={"message": "No."}))
    before = len(provider.requests)
    request = rig.start("stream_predict", lm={"num_retries": 20})
    provider.wait_for(lambda p: len(p.requests) > before)
    begin = time.monotonic()
    worker.control("cancel", target=request)
    assert types(worker.collect(request)) == ["cancelled"]
    assert time.monotonic() - begin < 1.0


def heard(worker: Worker, request: str | int) -> int:
    """How many chunks of a request have come."""
    return sum(chunk["id"] == request for chunk in worker.received)


@each_command
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_no_more_chunks_than_credit(rig: Rig, adapter: str, command: str) -> None:
    worker, provider = rig
    provider.replies(lambda request: Reply(fit(request, QA)))
    worker.forget()
    args = {"question": "?", "tokens": True, "lm": model(provider), "adapter": adapter}
    everything = worker.stream(command, args)
    for step in (1, 3):
        worker.forget()
        request = worker.request(command, args, credit=step)
        granted = step
        while granted < len(everything) - 1:  # the last one needs no credit
            while heard(worker, request) < granted:
                worker.read_some()
            worker.sync()
            assert heard(worker, request) == granted
            worker.control("credit", target=request, n=step)
            granted += step
        chunks = worker.collect(request)
        assert [{**chunk, "id": 0} for chunk in chunks] == [{**chunk, "id": 0} for chunk in everything]


@each_provider
def test_a_host_without_credit_pauses_the_provider(rig: Rig, name: str) -> None:
    """What comes after the last field fills every buffer on the way, so that it shows who reads."""
    worker, provider = rig
    filler = ["x" * 30_000] * 600
    tokens = ["[[ ## answer ## ]]\n", *(f" {number}" for number in range(10)), "\n[[ ## completed ## ]]\n"]
    provider.replies(Reply(tokens=tokens + filler))
    worker.forget()
    with Provider(lambda request: Reply(tokens=tokens + filler)) as other:
        args = {"question": "?", "lm": model(other, name)}
        held = worker.request("stream_predict", args, credit=3)
        for _ in range(3):
            worker.type("token", held)
        # An equal stream with all credit has the time that the other would have had.
        done = worker.call("stream_predict", {**args, "lm": model(provider, name)})
        assert done["type"] == "prediction"
        assert other.at_once == 1
        assert heard(worker, held) == 3
        worker.control("credit", target=held, n=100)
        *chunks, last = worker.collect(held)
        assert last["output"] == joined(chunks) == {"answer": "0 1 2 3 4 5 6 7 8 9"}
        other.wait_for(lambda p: p.at_once == 0)


@each_command
@each_provider
def test_fifty_streams_do_not_mix(rig: Rig, name: str, command: str) -> None:
    worker, provider = rig
    gate = threading.Event()

    def values(number: str) -> dict[str, str]:
        return {
            "reasoning": f"{number} one.\n{number} two.",
            "answer": " ".join(f"{number}-{word}" for word in range(30)),
        }

    def reply(request: Recorded) -> Reply:
        number = asked(request)[1]["question"]
        return Reply(fit(request, values(number)), gate_after=20, gate=gate)

    provider.replies(reply)
    worker.forget()
    args = {"tokens": True, "lm": model(provider, name)}
    requests = [
        worker.request(command, {**args, "question": str(number), "adapter": ADAPTERS[number % 3]})
        for number in range(50)
    ]
    begun: set[str | int] = set()
    while len(begun) < 50:  # nobody waits for another
        begun.add(worker.type("token")["id"])
    gate.set()
    for number, request in enumerate(requests):
        *chunks, last = worker.collect(request)
        wanted = values(str(number))
        if command == "stream_predict":
            del wanted["reasoning"]
        else:
            assert steps(chunks) == wanted["reasoning"].split("\n")
        assert last["output"] == joined(chunks) == wanted
        assert len(of(chunks, "token")) > 25


# ---- what thousands of streams leave behind --------------------------------------------------------

WAVE = 200


class Holdings:
    """What a worker's process holds."""

    def __init__(self, worker: Worker, provider: Provider) -> None:
        provider.wait_for(lambda p: p.at_once == 0)
        self.threads = len(os.listdir(f"/proc/{worker.pid}/task"))
        #: But for connections that are kept for the next call.
        self.files = len(os.listdir(f"/proc/{worker.pid}/fd")) - provider.open_connections
        self.memory_mb = memory_mb(worker.pid)


def wave(worker: Worker, size: int, dice: random.Random, lms: list[dict[str, Any]]) -> Counter[str]:
    """So many streams at once, half of them cancelled after some chunks; how they ended."""
    worker.forget()
    left: dict[str | int, int] = {}
    for number in range(size):
        args = {"question": f"{number}", "tokens": True, "lm": lms[number % len(lms)]}
        args["adapter"] = dice.choice(ADAPTERS)
        request = worker.request(dice.choice(COMMANDS), args)
        left[request] = dice.randrange(16) if dice.random() < 0.6 else -1
        if left[request] == 0:
            worker.control("cancel", target=request)
    ends: Counter[str] = Counter()
    while left:
        chunk = worker.next()
        if "done" in chunk:
            ends[chunk["type"]] += 1
            del left[chunk["id"]]
        elif chunk["seq"] == left[chunk["id"]] - 1:
            worker.control("cancel", target=chunk["id"])
    return ends


def test_thousands_of_streams_leave_nothing_behind(spawn: Spawn) -> None:
    dice = random.Random(1)
    ends: Counter[str] = Counter()
    with Provider(lambda request: Reply(fit(request, QA))) as provider:
        worker = spawn()
        lms = [scripted({"outputs": QA}, tokens_per_s=2000)] * 4
        lms.append(model(provider))
        for _ in range(5):
            wave(worker, WAVE // 2, dice, lms)
        before = Holdings(worker, provider)
        for _ in range(25):
            ends += wave(worker, WAVE, dice, lms)
        after = Holdings(worker, provider)
        assert ends.total() == 5000
        assert ends["cancelled"] > 1000
        assert ends["prediction"] > 500
        assert ends["final_answer"] > 500
        assert set(ends) == {"cancelled", "prediction", "final_answer"}
        assert after.files <= before.files
        assert after.threads <= before.threads + 2, "those that DSPy keeps for small work"
        assert after.memory_mb - before.memory_mb < 30
        assert worker.call("stats")["abandoned_threads"] == 0
