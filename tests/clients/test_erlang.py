"""The Erlang client: it compiles without a warning, its own tests pass, its examples do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import EXAMPLES, ROOT, WAIT_S, environment

PACKAGE = EXAMPLES / "erlang"
MODULES = sorted(path.stem for path in PACKAGE.glob("src/*.erl"))
TESTS = sorted(path.stem for path in PACKAGE.glob("test/*.erl"))
OUTPUTS = {
    "quickstart": """\
[1/4] France
[2/4] Jupiter
[3/4] 100 degrees Celsius
[4/4] 299,792,458 meters per second
complete: 4 succeeded
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


def run(
    program: str, *words: str | Path, folder: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run one of Erlang's programs with ``words`` in ``folder``."""
    found = shutil.which(program)
    assert found, f"{program} is missing: .ci/tools installs it (on Debian: apt-get install erlang-base)"
    return subprocess.run(
        [found, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        env=environment(**env),
        check=False,
    )


def evaluate(code: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Evaluate Erlang expressions in a virtual machine that ends with them."""
    return run("erl", "-noshell", "-kernel", "logger_level", "error", *words, "-eval", f"{code}, halt(0).")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled modules and their tests."""
    for library, package in {"jiffy": "erlang-jiffy", "eunit": "erlang-eunit"}.items():
        found = evaluate(f"true = is_list(code:lib_dir({library}))").returncode == 0
        assert found, f"{library} is missing: .ci/tools installs it (on Debian: apt-get install {package})"
    folder = tmp_path_factory.mktemp("ebin")
    sources = [*PACKAGE.glob("src/*.erl"), *PACKAGE.glob("test/*.erl")]
    done = run("erlc", "-Werror", "+debug_info", "-o", folder, *sources)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_suite(compiled: Path) -> None:
    modules = ", ".join(TESTS)
    done = evaluate(f"ok = eunit:test([{modules}], [verbose])", "-pa", compiled)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"All [1-9]\d+ tests passed", done.stdout)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["here", "elsewhere"])
def test_example(name: str, folder: Path) -> None:
    done = run("escript", PACKAGE / f"{name}.escript", folder=folder)
    assert (done.returncode, done.stdout) == (0, OUTPUTS[name]), done.stderr


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_without_a_worker(name: str, tmp_path: Path) -> None:
    (tmp_path / "bridge").mkdir()
    (tmp_path / "bridge" / "__main__.py").write_text("raise SystemExit(2)")
    done = run("escript", PACKAGE / f"{name}.escript", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The worker ended before it was ready (exit code 2).\n"


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_without_python(name: str) -> None:
    done = run("escript", PACKAGE / f"{name}.escript", PYTHON="no-such-python")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no program no-such-python.\n"


@pytest.mark.parametrize("name", OUTPUTS)
def test_example_whose_model_fails(name: str, tmp_path: Path) -> None:
    entry = '{"error": {"status": 401, "message": "Wrong key."}}\n'
    for script in ("quickstart", "streaming"):
        (tmp_path / f"{script}.script.jsonl").write_text(entry)
    shutil.copy(EXAMPLES / "quickstart.jsonl", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "erlang")
    done = run("escript", tmp_path / "erlang" / f"{name}.escript")
    assert "Wrong key." in done.stderr
    assert done.returncode == (0 if name == "quickstart" else 1)  # there an item failed, not the batch


def test_examples_are_executable() -> None:
    assert all((PACKAGE / f"{name}.escript").stat().st_mode & 0o111 for name in OUTPUTS)


def test_everything_public_has_a_type_and_a_description() -> None:
    for module in MODULES:
        source = (PACKAGE / "src" / f"{module}.erl").read_text(encoding="utf-8")
        internal = source.startswith("%% @private")
        for exported in re.findall(r"^-export\(\[(.*?)\]\)", source, re.MULTILINE | re.DOTALL):
            for name in re.findall(r"(\w+)/\d", exported):
                public = re.search(rf"^-spec {name}\(", source, re.MULTILINE)
                private = re.search(rf"^%% @private\n(?:%%.*\n)*{name}\(", source, re.MULTILINE)
                assert public or private, f"{module}:{name} has no -spec"
                described = re.search(rf"^%% @doc .*\n(?:%%.*\n)*-spec {name}\(", source, re.MULTILINE)
                assert internal or private or described, f"{module}:{name} is not described"


def test_the_application_names_its_version() -> None:
    code = f'{{ok, [{{application, dspy_bridge, _}}]}} = file:consult("{PACKAGE}/src/dspy_bridge.app.src")'
    assert evaluate(code).returncode == 0
    assert evaluate(f'{{ok, [_, _]}} = file:consult("{PACKAGE}/rebar.config")').returncode == 0
