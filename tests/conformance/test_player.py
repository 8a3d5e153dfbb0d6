"""The scripted worker finds clients that do wrong, and says what."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.client_kit import load_cases, run_client_case
from tests.conformance.kit import Failed
from tests.conformance.stage import Stage
from tests.support.drivers import Driver, DriverFailed

READY: list[Any] = [{"ready": True}]
ASKED = [*READY, {"wait": {"command": "x"}, "as": "a"}]
TOLD = [*ASKED, {"write": {"type": "chunk", "n": 0}}, {"write": {"type": "chunk", "n": 1}}]
TOOL = {"type": "tool_call", "call_id": "c", "name": "t", "args": {}, "host": True}
X = '{"id":1,"command":"x","credit":2}'
SHUTDOWN = '{"command":"shutdown","args":{"mode":"drain"}}'
RESULT = '{"command":"tool_result","args":{"target":1,"call_id":"c","value":null}}'


def play(folder: Path, steps: list[Any], *lines: str | int) -> tuple[str, list[str]]:
    """What the player reports of a client that writes these lines, and what it wrote; a number means that so
    many lines are read before the next is written.
    """
    path = folder / "cases.json"
    path.write_text(json.dumps([{"name": "it", "starts": [steps]}]))
    with Stage() as stage:
        written = []
        argv, pipe = stage.argv(path, "it", "lines"), subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as player:
            assert player.stdin is not None
            assert player.stdout is not None
            with suppress(BrokenPipeError):  # one that has seen enough does not read on
                for line in lines:
                    if isinstance(line, int):
                        written += [player.stdout.readline() for _ in range(line)]
                    else:
                        player.stdin.write(line + "\n")
                        player.stdin.flush()
            with suppress(BrokenPipeError):
                player.stdin.close()
            written += player.stdout.readlines()
        return stage.verdict(None) or "", written


def test_a_good_client(tmp_path: Path) -> None:
    grant = '{"command":"credit","args":{"target":1,"n":1}}'
    ping = '{"id":2,"command":"ping"}'
    verdict, written = play(tmp_path, TOLD, 1, X, 2, grant, grant, ping, 1, SHUTDOWN)
    assert not verdict
    chunks = [json.loads(line) for line in written]
    assert [chunk["type"] for chunk in chunks] == ["ready", "chunk", "chunk", "pong", "bye"]
    assert list(chunks[1]) == ["id", "seq", "type", "n"]
    assert [chunk.get("seq") for chunk in chunks] == [None, 0, 1, 0, None]


@pytest.mark.parametrize(
    ("steps", "lines", "why"),
    [
        (ASKED, ["nonsense"], "no JSON"),
        (ASKED, ["[]"], "no request"),
        (ASKED, ['{"id":"1","command":"x"}'], "an id is an integer"),
        (ASKED, [X, X, SHUTDOWN], "not used again"),
        (ASKED, ['{"id":1,"command":"x","credit":0}'], "credit is 1 to"),
        (ASKED, ['{"id":1,"command":"x","args":[]}'], "args are an object"),
        (ASKED, [X, '{"id":2,"command":"y"}', SHUTDOWN], "should not have come"),
        (ASKED, [X], "without a shutdown"),
        (ASKED, [], "closed stdin"),
        (ASKED, [X, '{"command":"cancel","args":{"target":7}}', SHUTDOWN], "target is a request"),
        (ASKED, [X, *['{"command":"cancel","args":{"target":1}}'] * 2, SHUTDOWN], "follows its cancel"),
        (TOLD, [X, 3, '{"command":"credit","args":{"target":1,"n":3}}', SHUTDOWN], "what was taken"),
        (
            TOLD,
            ['{"id":1,"command":"x"}', '{"command":"credit","args":{"target":1,"n":1}}', SHUTDOWN],
            "needs no",
        ),
        (ASKED, [X, RESULT, SHUTDOWN], "was asked for"),
        ([*ASKED, {"write": TOOL}, {"wait": {"command": "y"}}], [X, 2, RESULT, RESULT], "answered once"),
        ([*ASKED, {"count": {"command": "x"}, "is": 2}], [X], "1 such messages"),
        ([{"dance": True}], [], "no such step"),
    ],
)
def test_a_client_that_does_wrong(steps: list[Any], lines: list[Any], why: str, tmp_path: Path) -> None:
    verdict, _ = play(tmp_path, steps, *lines)
    assert why in verdict


def test_a_player_is_quick_to_start(tmp_path: Path) -> None:
    begin = time.monotonic()
    play(tmp_path, READY, SHUTDOWN)
    assert time.monotonic() - begin < 5


def test_the_kit_tells_of_a_driver_that_says_nothing() -> None:
    [case] = load_cases("ready, one call")
    with Driver(["cat"]) as driver, pytest.raises((Failed, DriverFailed), match="op"):
        run_client_case(case, driver, "lines")


def test_a_missing_runtime_is_named() -> None:
    with pytest.raises(DriverFailed, match=r"no-such-runtime is missing.*\.ci/tools"):
        Driver(["no-such-runtime"])
