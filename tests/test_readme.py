"""Every command and output in the README and in the documentation is run and compared.

A comment before a fenced block says what it is:

- ``run``: lines after ``$`` are commands, the rest is what they print, ``…`` standing for anything
  (alone on a line: for any lines). ``exit=N`` for another exit code, ``dry`` to have make only say what
  it would do, ``provider`` to have the model played by a server on this machine, ``session`` to have all
  of the block typed into one shell.
- ``file: NAME`` and ``append: NAME``: a file's text for the commands that follow.
- ``from: PATH``: lines that stand in that file.
- ``json``: JSON, one object a line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.running import ROOT, WAIT_S, environment, run
from tests.support.provider import Provider, Reply, formatted

PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("bridge/docs/*.md")))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
#: What pytest finds by itself where the package is installed.
PLUGIN = (
    {} if entry_points(group="pytest11", name="dspy_bridge") else {"PYTEST_PLUGINS": "bridge.pytest_plugin"}
)
#: Languages whose blocks must say how they are tested.
TESTED = {"console", "python", "json", "js", "elixir", "erlang", "sh"}


class Block(NamedTuple):
    mark: str
    language: str
    body: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(found["mark"] or "", found["language"], found["body"]) for found in BLOCK.finditer(text)]


def commands(body: str) -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines it should print."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, *expected = part.rstrip("\n").split("\n")
        yield command, expected


def assert_like(shown: str, expected: list[str]) -> None:
    """``shown`` is ``expected``, where ``…`` stands for anything."""
    pattern = ""
    for line in expected:
        if line == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(map(re.escape, line.split("…"))) + r"\n"
    assert re.fullmatch(pattern, shown), f"expected:\n{chr(10).join(expected)}\n\nshown:\n{shown}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder that looks like a clone in which `make demo` has run."""
    for name in ("Makefile", "examples", "requirements.lock", "pyproject.toml", ".ci"):
        (tmp_path / name).symlink_to(ROOT / name)
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    # Programs and not links: a Python finds its packages by the path it is started by.
    for name, words in (("dspy-bridge", "-m bridge"), ("python", "")):
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        program.chmod(0o755)
    (bin_folder / "activate").write_text(f'PATH="{bin_folder}:$PATH"\n')
    (tmp_path / ".venv" / ".run").touch()  # what make looks at before it installs
    return tmp_path


def run_block(block: Block, folder: Path, **env: str) -> list[str]:
    """Run a block's commands in one shell after another; gives what each printed."""
    shown = []
    wanted = int(match[1]) if (match := re.search(r"exit=(\d+)", block.mark)) else 0
    path = os.pathsep.join([str(folder / ".venv" / "bin"), os.environ["PATH"]])
    flags = "n" if "dry" in block.mark else ""
    typed = list(commands(block.body))
    if "session" in block.mark:
        typed = [session(typed)]
    for command, expected in typed:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment(PATH=path, MAKEFLAGS=flags, **PLUGIN, **env),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == wanted, f"{command}\n{done.stdout}{done.stderr}"
        if expected:
            assert_like(done.stdout, expected)
        shown.append(done.stdout)
    return shown


def session(typed: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """The commands of a block as one script, and all that it should print."""
    return "\n".join(command for command, _ in typed), [line for _, lines in typed for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_how_it_is_tested(page: str) -> None:
    unmarked = [block for block in blocks(page) if block.language in TESTED and not block.mark]
    assert not unmarked
    fences = re.findall(r"^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_the_page_shows(page: str, tree: Path) -> None:
    for block in blocks(page):
        kind, _, name = block.mark.partition(": ")
        if kind in ("file", "append"):
            with open(tree / name, "w" if kind == "file" else "a") as file:
                file.write("\n\n" * (kind == "append") + block.body)
        elif kind == "run" and "provider" not in name:
            run_block(block, tree)


def test_the_real_models_of_the_readme(tree: Path) -> None:
    (block,) = [block for block in blocks("README.md") if "provider" in block.mark]
    with Provider(lambda request: Reply(formatted(request.user, "so it is"))) as provider:
        shown = run_block(block, tree, API_BASE=provider.url)
    assert ["[4/4] Completed: so it is" in text for text in shown] == [True, True]
    assert ["answered by " in text for text in shown] == [True, True]


@pytest.mark.parametrize("page", PAGES)
def test_snippets_stand_in_the_files_they_are_from(page: str) -> None:
    for block in blocks(page):
        kind, _, path = block.mark.partition(": ")
        if kind == "from":
            assert block.body in undented(ROOT / path, block.body)


def undented(path: Path, body: str) -> str:
    """The file's text with the indentation taken off that the snippet's first line has there."""
    text = path.read_text(encoding="utf-8")
    first = body.split("\n", 1)[0]
    line = next(line for line in text.split("\n") if line.strip() == first.strip())
    indent = line[: len(line) - len(line.lstrip())]
    return "\n".join(line.removeprefix(indent) for line in text.split("\n"))


@pytest.mark.parametrize("page", PAGES)
def test_json_is_json(page: str) -> None:
    for block in blocks(page):
        if block.mark == "json":
            for line in block.body.splitlines():
                assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_the_table_of_commands_is_the_registrys() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Commands")[1].split("## More")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert named == list(json.loads(run("describe", "--json").stdout)["commands"])


def test_make_test_runs_all_checks() -> None:
    make = shutil.which("make")
    assert make
    done = subprocess.run([make, "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    for tool in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert tool in done.stdout
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_ellipsis_is_not_too_generous() -> None:
    assert_like("a 1 b\nc\nd\n", ["a … b", "…"])
    with pytest.raises(AssertionError):
        assert_like("a 1 b\nc\n", ["a … b"])
    with pytest.raises(AssertionError):
        assert_like("a\nx b\n", ["a … b"])
