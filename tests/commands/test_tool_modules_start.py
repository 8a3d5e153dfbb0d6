"""The start of a worker with ``--tools``: which modules can be used, and what of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bridge.registry import RegistrationError
from bridge.tool_modules import tool_functions
from tests.conftest import Spawn
from tests.support.agents import COMMAND, result, steps
from tests.support.worker import run as run_worker

TOOLS = "tests.support.agent_tools"

MODULES = {
    "missing": (None, "can not be loaded"),
    "broken": ("raise RuntimeError('no licence')", "no licence"),
    "syntax": ("def f(:", "can not be loaded"),
    "exits": ("raise SystemExit(0)", "can not be loaded"),
    "empty": ("x = 1\ndef _private(): pass\n", "no public functions"),
    "positional": ("def f(a, /): pass\n", "by position"),
    "variable": ("def f(*args): pass\n", "by position"),
    "wrong_all": ("__all__ = ['gone']\n", "no public functions"),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_can_not_be_used_end_the_start(tmp_path: Path, name: str) -> None:
    source, words = MODULES[name]
    if source is not None:
        (tmp_path / f"{name}_tools.py").write_text(source)
    done = run_worker(b"", "--tools", f"{name}_tools", commands=False, env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 2
    assert done.stdout == b""
    assert f"{name}_tools" in done.log
    assert words in done.log
    assert "Traceback" not in done.log


def test_the_same_name_in_two_modules_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "more_tools.py").write_text("def add(a: int) -> int:\n    return a\n")
    flags = ("--tools", TOOLS, "--tools", "more_tools")
    done = run_worker(b"", *flags, commands=False, env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 2
    assert "'add'" in done.log


def test_what_a_module_lists_is_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listing_tools.py").write_text(
        "from shutil import which\n__all__ = ['which', '_own', 'number']\nnumber = 5\n"
        "def _own(): pass\ndef left_out(): pass\n"
    )
    (tmp_path / "plain_tools.py").write_text("from shutil import which\ndef own(): pass\nclass C: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert sorted(tool_functions(["listing_tools"])) == ["_own", "which"]
        assert sorted(tool_functions(["plain_tools"])) == ["own"]
        assert sorted(tool_functions(["plain_tools", "listing_tools"])) == ["_own", "own", "which"]
        with pytest.raises(RegistrationError, match="is there already"):
            tool_functions(["plain_tools", "plain_tools"])
    finally:
        for name in ("listing_tools", "plain_tools"):
            sys.modules.pop(name, None)


def test_a_tool_whose_types_can_not_be_told_is_an_error_of_its_own(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "odd_tools.py").write_text(
        "import threading\ndef odd(lock: threading.Lock): return 1\ndef fine(): return 2\n"
        "def gone(a: 'Nothing'): return 3\n"
    )
    worker = spawn("--tools", "odd_tools", commands=False, env={"PYTHONPATH": str(tmp_path)})
    for name in ("odd", "gone"):
        (last,) = worker.stream(COMMAND, {"question": "Q?", "tools": [name], "lm": steps()})
        assert (last["code"], f"'{name}'" in last["error"]) == ("tool_error", True)
    assert result(worker, "fine", {}, tools=["fine"]) == 2


def test_wrapped_functions_and_defaults_of_all_kinds(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "wrapped_tools.py").write_text(
        "import functools, enum\nclass Mood(enum.Enum):\n    GOOD = 'good'\n    BAD = 'bad'\n"
        "def loud(function):\n    @functools.wraps(function)\n    def inner(*args, **kwargs):\n"
        "        return function(*args, **kwargs).upper()\n    return inner\n"
        "@loud\ndef greet(name: str, greeting: str = 'hello') -> str:\n    return f'{greeting} {name}'\n"
        "def mood(how: Mood = Mood.GOOD) -> str:\n    return type(how).__name__ + how.value\n"
    )
    worker = spawn("--tools", "wrapped_tools", commands=False, env={"PYTHONPATH": str(tmp_path)})
    assert result(worker, "greet", {"name": "ann"}) == "HELLO ANN"
    assert result(worker, "mood", {}) == "Moodgood"
    assert result(worker, "mood", {"how": "bad"}) == "Moodbad"


def test_describe_names_the_tools(spawn: Spawn) -> None:
    worker = spawn("--tools", "tests.support.agent_tools", "--mcp", "calc=python calc.py")
    told = worker.call("describe")["tools"]
    assert told[-1] == "calc__*"
    assert set(told[:-1]) == set(tool_functions(["tests.support.agent_tools"]))
    assert spawn().call("describe")["tools"] == []
