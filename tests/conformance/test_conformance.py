"""Our own worker against the kit, in both framings, and the kit against wrong workers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.conformance.kit import Failed, load_cases, run_case
from tests.conformance.patterns import mismatch
from tests.support.worker import ROOT, command_line

CASES = load_cases()


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_our_worker_conforms(case: dict[str, Any], framing: str) -> None:
    assert run_case(case, command_line("--framing", framing), framing) is None


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names) >= 30


def kit(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.conformance", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


def test_the_kit_runs_against_any_command_line() -> None:
    done = kit("--only", "ready", "--", *command_line())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed  " in done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 failed, 0 not applicable")


def test_a_case_whose_commands_are_missing_is_not_applicable() -> None:
    done = kit("--only", "credit", "--", *command_line(commands=False))
    assert "n/a " in done.stdout
    assert " 0 failed" in done.stdout


WRONG_SEQ = """
print('{"id":null,"type":"ready","commands":[]}', flush=True)
input()
print('{"id":1,"seq":1,"type":"pong","done":true}', flush=True)
input()
"""


@pytest.mark.parametrize(
    "program",
    ["pass", "print('hello')", 'print(\'{"type":"ready"}\')', WRONG_SEQ],
    ids=["silent", "no JSON", "no id", "wrong seq"],
)
def test_the_kit_finds_a_wrong_worker(program: str) -> None:
    case = {"name": "x", "steps": [{"send": {"id": 1, "command": "ping"}}, {"done": 1}]}
    with pytest.raises(Failed):
        run_case(case, [sys.executable, "-c", program], "lines")


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": "$absent"}, {}, True),
        ({"a": "$absent"}, {"a": None}, False),
        ({"a": "$any"}, {"a": None}, True),
        ({"a": "$any"}, {}, False),
        ({"a": "/^x+$/"}, {"a": "xx"}, True),
        ({"a": "/^x+$/"}, {"a": "y"}, False),
        ({"a": "$integer"}, {"a": 1}, True),
        ({"a": "$integer"}, {"a": True}, False),
        ({"a": {"b": "$array"}}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [1, 2]}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": "$boolean"}, {"a": True}, True),
    ],
)
def test_patterns_match_what_they_say(pattern: Any, value: Any, fits: bool) -> None:
    assert (mismatch(pattern, value) is None) is fits
