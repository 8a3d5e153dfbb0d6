"""The Node client: its own tests, its examples, and what its package promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge.errors import Code
from tests.cli.running import EXAMPLES, ROOT, WAIT_S, environment

PACKAGE = EXAMPLES / "node"
OUTPUTS = {
    "quickstart": """\
[1/4] France
[2/4] Jupiter
[3/4] 100 degrees Celsius
[4/4] 299,792,458 meters per second
complete: 4 succeeded
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


def node(*words: str | Path, folder: Path = PACKAGE, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Node with ``words`` in ``folder``."""
    program = shutil.which("node")
    assert program, "node is missing: .ci/tools installs it (on Debian: apt-get install nodejs, 20 or newer)"
    return subprocess.run(
        [program, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=3 * WAIT_S,
        env=environment(**env),
        check=False,
    )


def package() -> dict[str, object]:
    content: dict[str, object] = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    return content


def test_node_is_new_enough() -> None:
    version = node("--version").stdout
    assert int(re.findall(r"\d+", version)[0]) >= 20, f"Node {version} is too old: install 20 or newer"


def test_suite() -> None:
    done = node("--test", "--test-concurrency=3", "--test-reporter=tap")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE)
    assert "# fail 0" in done.stdout


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
def test_example(name: str, folder: Path) -> None:
    done = node(PACKAGE / f"{name}.mjs", folder=folder)
    assert (done.returncode, done.stdout) == (0, OUTPUTS[name]), done.stderr


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_without_a_worker(name: str, tmp_path: Path) -> None:
    (tmp_path / "bridge").mkdir()
    (tmp_path / "bridge" / "__main__.py").write_text("raise SystemExit(2)")
    done = node(PACKAGE / f"{name}.mjs", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The worker ended before it had answered")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_whose_model_fails(name: str, tmp_path: Path) -> None:
    """It says so and ends: nothing keeps the program up."""
    entry = '{"error": {"status": 401, "message": "Wrong key."}}\n'
    for script in ("quickstart", "streaming"):
        (tmp_path / f"{script}.script.jsonl").write_text(entry)
    shutil.copy(EXAMPLES / "quickstart.jsonl", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "node")
    done = node(tmp_path / "node" / f"{name}.mjs", folder=tmp_path)
    assert "Wrong key." in done.stderr
    assert "    at " not in done.stderr  # a stack trace
    assert done.returncode == (0 if name == "quickstart" else 1)  # there an item failed, not the batch


def test_package_stands_alone() -> None:
    content = package()
    assert not [name for name in content if name.lower().endswith("dependencies")]
    assert content["type"] == "module"
    imported = {
        name
        for source in [*PACKAGE.glob("*.mjs"), *PACKAGE.glob("*/*.js")]
        for name in re.findall(r"""(?:from|import) ["']([^"']+)["']""", source.read_text(encoding="utf-8"))
    }
    assert "dspy-bridge" in imported  # itself
    assert not [name for name in imported - {"dspy-bridge"} if not name.startswith(("node:", "./", "../"))]


def test_every_export_has_a_type() -> None:
    done = node("--input-type=module", "-e", "console.log(...Object.keys(await import('dspy-bridge')))")
    exported = set(done.stdout.split())
    assert exported == {"BridgeError", "ChunkStream", "Client", "Pool"}, done.stderr
    types = (PACKAGE / str(package()["types"])).read_text(encoding="utf-8")
    assert exported == set(re.findall(r"^export (?:class|function|const) (\w+)", types, re.MULTILINE))


def test_every_member_has_a_type() -> None:
    code = """
        const { Client, ChunkStream, Pool } = await import("dspy-bridge");
        const members = (type) => [type.name, Object.getOwnPropertyNames(type.prototype)];
        console.log(JSON.stringify(Object.fromEntries([Client, ChunkStream, Pool].map(members))));
    """
    members = json.loads(node("--input-type=module", "-e", code).stdout)
    types = (PACKAGE / "index.d.ts").read_text(encoding="utf-8")
    for name, names in members.items():
        body = re.search(rf"^export class {name}\b.*?^}}", types, re.MULTILINE | re.DOTALL)
        assert body
        missing = [each for each in names if not re.search(rf"\b{each}\b[(:]", body[0])]
        assert not missing, name


def test_types_name_every_chunk_and_code() -> None:
    """All that the worker has."""
    types = (PACKAGE / "index.d.ts").read_text(encoding="utf-8")
    commands = (ROOT / "bridge/docs/commands.md").read_text(encoding="utf-8")
    for chunk in set(re.findall(r"^\*\*Chunk `(\w+)`", commands, re.MULTILINE)):
        assert f'type: "{chunk}";' in types, chunk
    for command in re.findall(r"^## (\w+)$", commands, re.MULTILINE):
        assert command == "Objects" or f"  {command}: {{" in types, command
    assert not [code for code in Code if f'| "{code.value}"' not in types]


def test_examples_need_no_more_than_node(tmp_path: Path) -> None:
    """The folder can be copied elsewhere as it is."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    done = node(tmp_path / "examples/node/quickstart.mjs", folder=tmp_path, PYTHONPATH=os.fspath(ROOT))
    assert (done.returncode, done.stdout) == (0, OUTPUTS["quickstart"]), done.stderr
