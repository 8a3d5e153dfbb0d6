"""Rules of the tree that no linter knows: who may import what, what stands where, one place for each fact."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bridge._version import __version__
from bridge.errors import Code

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "bridge",
    "examples",
    "pyproject.toml",
    "requirements.lock",
    "tests",
}
#: Longest module, in lines.
MODULE_LINES = 350


@cache
def tracked() -> list[str]:
    """The paths that git keeps or would keep."""
    git = shutil.which("git")
    assert git
    words = [git, "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return sorted(path for path in set(listed.split("\0")) if path and (ROOT / path).exists())


def modules(folder: str = "bridge") -> list[str]:
    return [path for path in tracked() if path.startswith(f"{folder}/") and path.endswith(".py")]


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    return tomllib.loads(text_of("pyproject.toml"))


def imports(path: str, *, at_start: bool = False) -> Iterator[str]:
    """Names of the modules that the file imports; ``at_start``: only those that importing it imports."""
    tree = ast.parse(text_of(path))
    for node in _running_nodes(tree) if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: none inside functions, none for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _running_nodes(node)


def forbidden(path: str, *packages: str, at_start: bool = False) -> list[str]:
    """The imports of ``path`` that are in ``packages``."""
    return [
        f"{path}: {name}"
        for name in imports(path, at_start=at_start)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    ]


# One name a rule: the folder it is about, what may not be imported there, and where it may.
RULES = {
    "wire does no input or output": (
        "bridge/wire/",
        ("os", "threading", "asyncio", "dspy", "bridge.worker"),
        (),
    ),
    "only dspy_runtime and commands import dspy": (
        "bridge/",
        ("dspy", "litellm"),
        ("bridge/dspy_runtime/", "bridge/commands/"),
    ),
    "nothing imports litellm": ("bridge/", ("litellm",), ()),
    "commands know no worker": ("bridge/commands/", ("bridge.worker",), ()),
    "dspy_runtime knows no worker": ("bridge/dspy_runtime/", ("bridge.worker", "bridge.cli"), ()),
    "the command line only talks to workers": (
        "bridge/cli/",
        ("bridge.worker", "bridge.commands"),
        (),
    ),
    "clients know the wire only": (
        "bridge/client/",
        ("bridge.worker", "bridge.commands", "bridge.dspy_runtime", "bridge.registry"),
        (),
    ),
    "the worker does not know the command line": ("bridge/worker/", ("bridge.cli",), ()),
}


@pytest.mark.parametrize("rule", RULES)
def test_imports(rule: str) -> None:
    folder, packages, exempt = RULES[rule]
    found = [
        bad
        for path in modules()
        if path.startswith(folder) and not (exempt and path.startswith(exempt))
        for bad in forbidden(path, *packages)
    ]
    assert not found


def test_commands_load_dspy_only_on_use() -> None:
    heavy = ("dspy", *(f"bridge.dspy_runtime.{name}" for name in ("runtime", "signatures", "lm")))
    assert not [bad for path in modules("bridge/commands") for bad in forbidden(path, *heavy, at_start=True)]


@pytest.mark.parametrize(
    "module",
    [
        "bridge",
        "bridge.commands.predict",
        "bridge.commands.configure",
        "bridge.cli",
        "bridge.cli.call",
        "bridge.client",
    ],
)
def test_light_modules_stay_light(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {"dspy", "litellm", "pydantic", "rich"}.isdisjoint(done.stdout.split())


def test_nothing_but_what_belongs_stands_at_the_top() -> None:
    assert {path.split("/", 1)[0] for path in tracked()} <= TOP_LEVEL


def test_no_machine_and_no_registry_is_named() -> None:
    # Spelled in two parts, so that this file does not name them itself.
    names = ["pypi" + ".org", "python" + "hosted", "npmjs" + ".", "deb.debian" + ".", "extra-index" + "-url"]
    names += ["/work" + "/", "/tmp" + "/w/", "find" + "-links /"]
    pattern = re.compile("|".join(map(re.escape, names)))
    assert not [path for path in tracked() if pattern.search(text_of(path))]


def test_nothing_is_left_to_do() -> None:
    pattern = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    assert not [path for path in tracked() if pattern.search(text_of(path))]
    assert not [path for path in modules() if "raise NotImplemented" in text_of(path)]


def test_exceptions_to_the_linters_have_a_reason() -> None:
    # A reason stands behind the codes: `noqa: XY123 - why`, or `type: ignore[code]  # why`.
    bare = re.compile(r"#\s*(?:noqa(?!: [A-Z0-9, ]+ - \S)|type: ignore(?!\[[^]]*\]\s*# \S))")
    assert not [path for path in tracked() if path.endswith(".py") and bare.search(comments(path))]


def comments(path: str) -> str:
    """The comments of a module, a line each."""
    with (ROOT / path).open("rb") as file:
        found = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    return "\n".join(found)


def test_modules_are_of_a_size_to_be_read() -> None:
    long = {path: lines for path in modules() if (lines := text_of(path).count("\n")) > MODULE_LINES}
    assert not long


def test_the_version_stands_in_one_place() -> None:
    assert pyproject()["project"]["dynamic"] == ["version"]
    assert pyproject()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bridge._version.__version__"}
    literal = re.compile(rf"[\"']{re.escape(__version__)}[\"']")
    assert [path for path in modules() if literal.search(text_of(path))] == ["bridge/_version.py"]
    assert re.search(rf"^## {re.escape(__version__)}\b", text_of("CHANGELOG.md"), re.MULTILINE)


def test_the_core_needs_three_distributions() -> None:
    project = pyproject()["project"]
    names = [re.split(r"[<>=]", dependency)[0] for dependency in project["dependencies"]]
    assert names == ["dspy-ai", "msgspec", "orjson"]
    assert project["dependencies"][0] == "dspy-ai>=3.4,<3.5"
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in text_of("LICENSE")


@pytest.mark.parametrize("path", ["requirements.lock", "tests/benchmarks/peers/requirements.txt"])
def test_the_lock_has_names_versions_and_hashes_only(path: str) -> None:
    line = re.compile(r"#.*|[a-z0-9.\-]+==[\w.]+(?: ; [^#\\]+)? \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?")
    lock = text_of(path)
    assert not [text for text in lock.splitlines() if not line.fullmatch(text)]
    assert "://" not in lock


def test_the_lock_has_all_that_is_asked_for() -> None:
    locked = set(re.findall(r"^([a-z0-9.\-]+)==", text_of("requirements.lock"), re.MULTILINE))
    project = pyproject()
    asked = project["project"]["dependencies"] + project["build-system"]["requires"]
    asked += [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    assert {re.split(r"[<>=]", name)[0] for name in asked} <= locked


def test_every_error_code_is_documented() -> None:
    text = text_of("bridge/docs/protocol.md")
    assert not [code for code in Code if f"`{code.value}`" not in text]


def test_documents_are_part_of_the_package() -> None:
    kinds = ["py.typed", "docs/*.md", "docs/*.svg"]
    assert pyproject()["tool"]["setuptools"]["package-data"]["bridge"] == kinds
    assert {path.suffix for path in (ROOT / "bridge" / "docs").iterdir()} == {".md", ".svg"}
    assert (ROOT / "bridge" / "py.typed").exists()


def test_every_package_has_an_init() -> None:
    """Setuptools leaves out folders without one."""
    folders = {Path(path).parent for path in modules()}
    assert not [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()]
