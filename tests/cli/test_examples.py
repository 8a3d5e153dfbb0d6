"""Each example, run as its first line says, against a real worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.cli.docs import TARGET, render
from tests.cli.running import EXAMPLES, ROOT, WAIT_S, environment, run
from tests.support.provider import Provider, Reply, formatted

ANSWERS = """\
[1/4] France
[2/4] Jupiter
[3/4] 100 degrees Celsius
[4/4] 299,792,458 meters per second
complete: 4 succeeded
"""
KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """``dspy-bridge`` as an executable file, whether or not the package is installed."""
    path = tmp_path / "dspy-bridge"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m bridge "$@"\n')
    path.chmod(0o755)
    return path


quickstarts = pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "examples/python/quickstart.py"],
        ["node", "examples/node/quickstart.mjs"],
        ["elixir", "examples/elixir/quickstart.exs"],
        ["escript", "examples/erlang/quickstart.escript"],
        ["examples/shell/quickstart.sh"],
    ],
    ids=["python", "node", "elixir", "erlang", "shell"],
)


@quickstarts
@pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
def test_quickstart(command: list[str], folder: Path) -> None:
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in command]
    assert shutil.which(words[0]), f"{words[0]} is missing: .ci/tools installs it"
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, env=environment(), check=False
    )
    assert (done.returncode, done.stdout) == (0, ANSWERS), done.stderr


@quickstarts
def test_quickstart_without_a_worker(command: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder)
    (folder / "quickstart.script.jsonl").write_text("this is no script\n")
    words = [str(tmp_path / word) if word.startswith("examples/") else word for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=WAIT_S, env=environment(), check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    told = done.stderr.splitlines()[-1]  # after the worker's own words
    assert told.startswith("The worker ended"), done.stderr


@pytest.mark.parametrize("name", ["chain_of_thought", "react"])
def test_python_streams(name: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "python" / f"{name}.py"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, STREAMS[name]), done.stderr


STREAMS = {
    "predict": "Because air scatters blue light the most.\nprediction: 21 tokens\n",
    "chain_of_thought": """\
1. Sunlight is made of all colours.
2. Air scatters blue light more than red light.
3. So blue light reaches us from every side.
Because air scatters blue light the most.
""",
    "react": """\
1. I need the population of France.
   population: 68000000
2. And that of Spain.
   population: 49000000
3. France has more.
In France.
""",
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
def test_shell_streams(name: str, folder: Path) -> None:
    done = subprocess.run(
        [EXAMPLES / "shell" / f"{name}.sh"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, STREAMS[name]), done.stderr


@pytest.mark.parametrize("name", STREAMS)
def test_shell_streams_without_a_worker(name: str, tmp_path: Path) -> None:
    broken = tmp_path / "bridge"
    broken.mkdir()
    (broken / "__main__.py").write_text("raise SystemExit(2)")
    done = subprocess.run(
        [EXAMPLES / "shell" / f"{name}.sh"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The worker ended before it had answered.\n"


@pytest.mark.parametrize("name", STREAMS)
def test_shell_streams_show_errors(name: str, tmp_path: Path) -> None:
    script = tmp_path / "streaming.script.jsonl"
    script.write_text('{"error": {"status": 401, "message": "Wrong key."}}\n')
    (tmp_path / "shell").mkdir()
    copied = shutil.copy(EXAMPLES / "shell" / f"{name}.sh", tmp_path / "shell")
    done = subprocess.run(
        [copied], capture_output=True, text=True, timeout=WAIT_S, env=environment(), check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "error: Wrong key."), done.stderr


def demo(program: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXAMPLES / "shell" / "demo.sh"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment(BRIDGE=str(program), **env),
        check=False,
    )


def test_demo_with_canned_answers(program: Path) -> None:
    done = demo(program)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert "canned" in done.stderr  # the worker's log
    assert "canned" in lines[0]
    chunks = [json.loads(line) for line in lines if line.startswith("{")]
    assert [chunk["type"] for chunk in chunks] == ["prediction"] * 4 + ["complete"]
    start = lines.index("[1/4] Completed: France")
    assert lines[start + 1 : start + 8] == [
        "Progress: 25%",
        "[2/4] Completed: Jupiter",
        "Progress: 50%",
        "[3/4] Completed: 100 degrees Celsius",
        "Progress: 75%",
        "[4/4] Completed: 299,792,458 meters per second",
        "Progress: 100%",
    ]
    assert lines[start + 8].startswith("Done: 4 of 4 completed, 0 failed, in ")
    assert any("DSPY_BRIDGE_MODEL=openai/" in line for line in lines)
    assert any("MODEL=ollama_chat/" in line for line in lines)


@pytest.mark.parametrize("variable", ["MODEL", "DSPY_BRIDGE_MODEL"])
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "ollama_chat/llama3.2"])
def test_demo_with_a_provider(program: Path, variable: str, model: str) -> None:
    with Provider(lambda request: Reply(formatted(request.user, "so it is"))) as provider:
        env = {variable: model, "API_BASE": provider.url, "OPENAI_API_KEY": KEY}
        done = demo(program, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"answered by {model}" in done.stdout
    assert "[4/4] Completed: so it is" in done.stdout
    assert "canned" not in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert len(provider.requests) == 4


def test_demo_with_a_wrong_key_says_so(program: Path) -> None:
    done = demo(program, MODEL="openai/gpt-4o-mini", API_BASE="http://127.0.0.1:9", OPENAI_API_KEY=KEY)
    assert "4 failed" in done.stdout
    assert "lm_unavailable" in done.stdout
    assert done.returncode == 1


def test_the_page_of_commands_is_up_to_date() -> None:
    done = run("describe", "--json")
    assert TARGET.read_text(encoding="utf-8") == render(json.loads(done.stdout)), "run: make docs"


def test_examples_are_executable() -> None:
    for script in (EXAMPLES / "shell").glob("*.sh"):
        assert os.access(script, os.X_OK), script.name
