"""The Elixir client's own tests and examples, on the Elixir that is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import EXAMPLES, ROOT, environment
from tests.support.provider import Provider, Reply, formatted

PROJECT = EXAMPLES / "elixir"
#: Compiling and testing together, on a busy machine.
WAIT_S = 150.0

OUTPUTS = {
    "working_streaming_example": """\
Starting streaming predictions...
[1/4] Completed: France
Progress: 25%
[2/4] Completed: Jupiter
Progress: 50%
[3/4] Completed: 100 degrees Celsius
Progress: 75%
[4/4] Completed: 299,792,458 meters per second
Progress: 100%
✅ Streaming complete! Processed 4 items.
""",
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


def run(*words: str, env: dict[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its output is UTF-8, whatever the locale."""
    assert shutil.which(words[0]), f"{words[0]} is missing. On Debian, .ci/tools installs Elixir and jiffy"
    return subprocess.run(
        words,
        cwd=folder,
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=WAIT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def example(name: str, folder: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return run("elixir", str(PROJECT / f"{name}.exs"), env=environment(**env), folder=folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which mix leaves nothing in the project, and asks for nothing."""
    home = tmp_path_factory.mktemp("mix")
    return environment(
        HOME=str(home),
        MIX_HOME=str(home),
        MIX_BUILD_PATH=str(home / "build"),
        MIX_ENV="test",
        HEX_OFFLINE="1",
    )


def mix(*words: str, env: dict[str, str]) -> None:
    done = run("mix", *words, env=env, folder=PROJECT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_it_compiles_without_warnings(built: dict[str, str]) -> None:
    mix("compile", "--warnings-as-errors", "--force", env=built)


def test_it_is_formatted(built: dict[str, str]) -> None:
    mix("format", "--check-formatted", env=built)


def test_its_own_tests_pass(built: dict[str, str]) -> None:
    mix("test", "--warnings-as-errors", env=built)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
def test_examples_print_what_they_should(name: str, folder: Path) -> None:
    done = example(name, folder)
    assert (done.returncode, done.stdout) == (0, OUTPUTS[name]), done.stderr


def test_examples_print_utf8_in_any_locale() -> None:
    name = "working_streaming_example"
    done = example(name, LC_ALL="C")
    assert (done.returncode, done.stdout) == (0, OUTPUTS[name]), done.stderr


@pytest.mark.parametrize("name", OUTPUTS)
def test_examples_without_a_worker(name: str, tmp_path: Path) -> None:
    broken = tmp_path / "bridge"
    broken.mkdir()
    (broken / "__main__.py").write_text("raise SystemExit(2)")
    done = example(name, tmp_path, PYTHONPATH=str(tmp_path))
    said = [line for line in done.stdout.splitlines() if line and "It is started again" not in line]
    assert (done.returncode, said) == (1, []), "but for the log, on a slow machine"
    assert done.stderr.startswith("The worker ended before it had answered")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["MODEL", "DSPY_BRIDGE_MODEL"])
def test_examples_with_a_provider(variable: str) -> None:
    key = "sk-test-0123456789abcdef"
    with Provider(lambda request: Reply(formatted(request.user, "so it is"))) as provider:
        env = {variable: "openai/gpt-4o-mini", "API_BASE": provider.url, "OPENAI_API_KEY": key}
        done = example("working_streaming_example", ROOT, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Completed: so it is\n") == 4
    assert done.stdout.endswith("✅ Streaming complete! Processed 4 items.\n")
