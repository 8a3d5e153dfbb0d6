"""``dspy-bridge doctor``: what it finds, and that each failure says what to do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.cli import doctor
from tests.cli.running import SCRIPTED, run
from tests.support.provider import Provider, Reply, failure

KEY = "sk-test-0123456789abcdef"


def findings(*words: str, **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code and the checks by name."""
    done = run("doctor", "--json", *words, **env)
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    assert KEY not in done.stdout + done.stderr
    return done.returncode, {check["name"]: check for check in told["checks"]}


def test_all_is_well_without_a_model() -> None:
    code, checks = findings()
    assert code == 0
    assert checks["language model"]["status"] == "skip"
    for name in ("Python", "dspy-ai", "msgspec", "orjson", "import dspy", "worker", "round trip"):
        assert checks[name]["status"] == "ok", checks[name]


def test_for_people() -> None:
    done = run("doctor", *SCRIPTED)
    assert done.returncode == 0
    assert "ok    language model: scripted answered in " in done.stdout
    assert "(canned answers)" in done.stdout
    assert done.stdout.endswith("All is well.\n")


def test_the_model_is_asked_one_question() -> None:
    with Provider() as provider:
        code, checks = findings(
            "--model", "openai/gpt-4o-mini", "--api-base", provider.url, OPENAI_API_KEY=KEY
        )
    assert code == 0
    assert checks["language model"]["status"] == "ok"
    assert len(provider.requests) == 1
    assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_an_answer_of_the_wrong_shape_is_an_answer() -> None:
    with Provider(lambda _: Reply("Yes.")) as provider:
        words = ("--model", "openai/gpt-4o-mini", "--api-base", provider.url)
        code, checks = findings(*words, OPENAI_API_KEY=KEY)
    assert (code, checks["language model"]["status"]) == (0, "ok")


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (lambda: failure(401), "OPENAI_API_KEY"),
        (lambda: failure(429, "You exceeded your quota.", code="insufficient_quota"), "billing"),
        (lambda: failure(404), "model's name"),
    ],
)
def test_what_the_provider_refuses_is_explained(reply: Callable[[], Reply], advice: str) -> None:
    with Provider(lambda _: reply()) as provider:
        words = ("--model", "openai/gpt-4o-mini", "--api-base", provider.url)
        code, checks = findings(*words, OPENAI_API_KEY=KEY)
    assert code == 1
    assert checks["language model"]["status"] == "fail"
    assert advice in checks["language model"]["fix"]


@pytest.mark.parametrize(
    ("model", "variable"), [("openai/gpt-4o-mini", "OPENAI_API_KEY"), ("groq/any", "GROQ_API_KEY")]
)
def test_a_missing_key_is_named(model: str, variable: str) -> None:
    code, checks = findings("--model", model, **{variable: ""})
    assert code == 1
    found = checks["language model"]
    assert "lm_not_configured" in found["detail"]
    assert found["fix"] == f"Set {variable} in the worker's environment."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'No API key found. Set X_API_KEY, or pass api_key="..." to dspy.LM(...).',
            "No API key found. Set X_API_KEY.",
        ),
        ("Nothing came for 5 s. Raise it with Timeouts(read=...) if needed.", "Nothing came for 5 s."),
        ("Call dspy.configure(lm=...) first.", "Call dspy.configure(lm=...) first."),  # better than nothing
        ("The answer was cut (length).", "The answer was cut (length)."),
    ],
)
def test_advice_in_python_is_left_out(text: str, told: str) -> None:
    assert doctor._for_operators(text) == told


def test_a_worker_that_does_not_start_is_a_finding() -> None:
    code, checks = findings("--commands", "no_such_module")
    assert code == 1
    assert "no_such_module" in checks["worker"]["detail"]
    assert checks["worker"]["fix"]


def test_places_that_can_not_be_written_to(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet" / "there"
    code, checks = findings("--log-file", "/no/such/folder/x.log", "--cache-dir", str(cache))
    assert code == 1
    assert checks["log file"]["status"] == "fail"
    assert "--log-file" in checks["log file"]["fix"]
    assert checks["cache"]["status"] == "ok"


def test_a_folder_is_tried_rather_than_asked() -> None:
    # root may write everywhere, as far as permissions go, and yet no file can be made here
    check = doctor._can_write("cache", Path("/proc"), "--cache-dir")
    assert check.status == "fail"
    assert "--cache-dir" in check.fix


def test_versions_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_requirement", lambda _: "dspy-ai<3.5,>=3.4")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.5.0")
    check = doctor._distribution("dspy-ai")
    assert (check.status, check.detail) == ("fail", "3.5.0, but dspy-ai<3.5,>=3.4 is needed")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.4.10")
    assert doctor._distribution("dspy-ai").status == "ok"


def test_a_missing_distribution() -> None:
    check = doctor._distribution("no-such-distribution")
    assert check.status == "fail"
    assert "pip install" in check.fix


def test_an_import_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dspy.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor._dspy()
    assert (check.status, check.detail) == ("fail", "ImportError: broken on purpose")


def test_an_import_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert doctor._dspy().status == "fail"


def test_nothing_is_written(tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path))
    code, _ = findings("--log-file", str(tmp_path / "x" / "y.log"))
    assert code == 1
    assert set(os.listdir(tmp_path)) == before
