"""``doctor``: does this installation work, and if not, what is to be done?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.cli.flags import FAILED, OK, Parser
from bridge.cli.process import WorkerDied, WorkerProcess
from bridge.cli.readable import BAD_ENDS
from bridge.cli.worker_flags import add_worker_flags, worker_flags

MIN_PYTHON = (3, 11)
#: Seconds that `import dspy` may take in a process of its own.
IMPORT_S = 120.0
#: Milliseconds for the one small call to the language model, retries included.
LM_MS = 30_000

_DISTRIBUTIONS = ("dspy-ai", "msgspec", "orjson")
_REINSTALL = "Install it again: pip install --upgrade dspy-bridge"

#: What to do about each way a language model can fail.
_LM_ADVICE = {
    "lm_auth": "Set the provider's key, such as OPENAI_API_KEY, and check that it is still valid.",
    "lm_billing": "The account has no credit left: see the provider's billing page.",
    "lm_rate_limit": "The provider limits your requests: wait, or use another key or model.",
    "lm_timeout": "The model did not answer in time: check the network, or --api-base.",
    "lm_unavailable": "Nothing answers: check the network and --api-base; for Ollama, run 'ollama serve'.",
    "lm_invalid_request": "Check the model's name: PROVIDER/MODEL, as the provider spells it.",
    "deadline_exceeded": "The model did not answer in time: check the network, or --api-base.",
}

_KEY_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9_]*_(?:KEY|TOKEN)\b")
#: Calls in Python, which one who runs a worker has no place to write: ``dspy.LM(...)``, ``Timeouts(...)``.
_SDK = re.compile(r"\b[A-Za-z_][\w.]*\(")
_SDK_CLAUSE = re.compile(r",? (?:or|and) (?:pass|use|set|call) .*?\b[A-Za-z_][\w.]*\(.*?\)(?=\.?$|[,;])")


class Check(NamedTuple):
    """One thing looked at: ``status`` is ok, skip or fail; ``fix`` says what to do about a failure."""

    name: str
    status: str
    detail: str
    fix: str = ""


def doctor(argv: Sequence[str]) -> int:
    """Run ``doctor`` with the words after it: 0 when nothing failed, else 1."""
    parser = Parser(
        "dspy-bridge doctor",
        "Check this installation. A model set by --model or DSPY_BRIDGE_MODEL is asked one small question.",
    )
    parser.add_argument("--json", action="store_true", help="the findings as one JSON object")
    add_worker_flags(parser)
    options = parser.parse(argv)
    checks = []
    for check in _all(options):
        checks.append(check)
        if not options.json:
            _print(check)
    failed = [check for check in checks if check.status == "fail"]
    if options.json:
        print(json.dumps({"ok": not failed, "checks": [check._asdict() for check in checks]}, indent=2))
    else:
        print(f"{len(failed)} of {len(checks)} checks failed." if failed else "All is well.")
    return FAILED if failed else OK


def _print(check: Check) -> None:
    sign = {"ok": "ok  ", "skip": "-   ", "fail": "FAIL"}[check.status]
    print(f"{sign}  {check.name}: {check.detail}")
    if check.fix:
        print(f"      {check.fix}")
    sys.stdout.flush()


def _all(options: Namespace) -> Iterator[Check]:
    yield _python()
    yield from (_distribution(name) for name in _DISTRIBUTIONS)
    yield _rich()
    yield _litellm()
    yield _dspy()
    yield from _writable(options)
    yield from _worker(options)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < MIN_PYTHON:
        return Check("Python", "fail", version, "Use Python {}.{} or newer.".format(*MIN_PYTHON))
    return Check("Python", "ok", version)


def _distribution(name: str) -> Check:
    """Is ``name`` installed, in a version that this package declares it works with?"""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", f"Install it: pip install '{_requirement(name)}'")
    if not _within(version, _requirement(name)):
        return Check(name, "fail", f"{version}, but {_requirement(name)} is needed", _REINSTALL)
    return Check(name, "ok", version)


def _requirement(name: str) -> str:
    """What this package's metadata ask of ``name``: ``dspy-ai<3.5,>=3.4``; the bare name if it has none."""
    try:
        declared = importlib.metadata.requires("dspy-bridge") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        declared = []
    mine = (line for line in declared if "extra ==" not in line and re.split(r"[<>=!~ ;\[]", line)[0] == name)
    return next(mine, name)


def _within(version: str, requirement: str) -> bool:
    """Whether ``version`` keeps to the ``>=`` and ``<`` bounds of ``requirement``."""
    for sign, bound in re.findall(r"(>=|<)(\d+(?:\.\d+)*)", requirement):
        if (_numbers(version) >= _numbers(bound)) != (sign == ">="):
            return False
    return True


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]


def _rich() -> Check:
    if importlib.util.find_spec("rich") is None:
        return Check(
            "rich", "skip", "not installed; 'call' shows plain text. For a progress bar: pip install rich"
        )
    return Check("rich", "ok", importlib.metadata.version("rich"))


def _litellm() -> Check:
    """LiteLLM is only looked for: importing it takes seconds."""
    if importlib.util.find_spec("litellm") is None:
        return Check("LiteLLM", "skip", "not installed; only some providers need it (pip install litellm)")
    return Check(
        "LiteLLM", "ok", f"{importlib.metadata.version('litellm')}, used only by providers that need it"
    )


def _dspy() -> Check:
    """Import DSPy in a process of its own, as a worker does."""
    start = time.monotonic()
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # no price list from the network
    command = [sys.executable, "-c", "import dspy; print(dspy.__version__)"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("import dspy", "fail", f"took longer than {IMPORT_S:.0f} s", "Is the disk slow or full?")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Check("import dspy", "fail", last, _REINSTALL)
    version = done.stdout.strip().rsplit("\n", 1)[-1]
    return Check("import dspy", "ok", f"{version}, in {time.monotonic() - start:.1f} s")


def _writable(options: Namespace) -> Iterator[Check]:
    """The places that the flags ask the worker to write to."""
    if options.log_file:
        yield _can_write("log file", Path(options.log_file).absolute().parent, "--log-file")
    if options.cache_dir:
        yield _can_write("cache", _nearest(Path(options.cache_dir).absolute()), "--cache-dir")


def _can_write(name: str, folder: Path, flag: str) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # permissions alone say nothing of a full disk
            file.write(b"x")
            file.flush()
    except OSError as error:
        detail = f"{folder} can not be written to: {error.strerror or error}"
        return Check(name, "fail", detail, f"Give {flag} a place that you may write to.")
    return Check(name, "ok", f"{folder} can be written to")


def _nearest(path: Path) -> Path:
    """``path`` or the closest of its parents that exists."""
    return path if path.exists() or path == path.parent else _nearest(path.parent)


def _worker(options: Namespace) -> Iterator[Check]:
    """Start a worker, have it answer, and have it ask the language model if one is set."""
    log: list[str] = []
    start = time.monotonic()
    try:
        with WorkerProcess(worker_flags(options), log.append) as worker:
            yield Check("worker", "ok", f"ready in {(time.monotonic() - start) * 1000:.0f} ms")
            yield _timed("round trip", lambda: worker.ask("ping"))
            yield _language_model(worker, options)
    except WorkerDied as error:
        detail = " ".join([str(error), *log[-3:]])
        yield Check("worker", "fail", detail, "Mend what its message says; --log-level debug tells more.")


def _timed(name: str, ask: Callable[[], dict[str, Any]]) -> Check:
    start = time.monotonic()
    answer = ask()
    if answer.get("type") in BAD_ENDS:
        return Check(name, "fail", str(answer.get("error", answer)), "Please report this as a bug.")
    return Check(name, "ok", f"{(time.monotonic() - start) * 1000:.1f} ms")


def _language_model(worker: WorkerProcess, options: Namespace) -> Check:
    model = options.model or os.environ.get("DSPY_BRIDGE_MODEL")
    if not model:
        return Check(
            "language model", "skip", "none set; to check one: dspy-bridge doctor --model PROVIDER/MODEL"
        )
    start = time.monotonic()
    error, scripted = _try_model(worker)
    if error is None:
        canned = " (canned answers)" if scripted else ""
        return Check("language model", "ok", f"{model} answered in {time.monotonic() - start:.1f} s{canned}")
    detail = f"{model}: {_for_operators(str(error.get('error')))} ({error.get('code')})"
    return Check("language model", "fail", detail, _lm_advice(error))


def _lm_advice(error: Mapping[str, Any]) -> str:
    code, text = str(error.get("code")), str(error.get("error"))
    if code == "lm_not_configured":
        if variables := list(dict.fromkeys(_KEY_VARIABLE.findall(text))):
            return f"Set {' or '.join(variables)} in the worker's environment."
        if "litellm" in text.lower():
            return "Install it: pip install litellm"
    return _LM_ADVICE.get(code, "See the message; --log-level debug tells more.")


def _for_operators(text: str) -> str:
    """An error's text without what it advises to do in Python code."""
    sentences = re.split(r"(?<=[.!?])(?<!E\.g\.)\s+(?=[A-Z])", text)
    kept = [_SDK_CLAUSE.sub("", sentence) for sentence in sentences]
    return " ".join(sentence for sentence in kept if not _SDK.search(sentence)) or text


def _try_model(worker: WorkerProcess) -> tuple[dict[str, Any] | None, bool]:
    """One small question: the error it met, if any, and whether the answer was a scripted one."""
    args = {"signature": "question -> answer", "items": [{"question": "Answer with the word: yes"}]}
    worker.send({"id": "lm", "command": "stream_predict_batch", "args": args, "timeout_ms": LM_MS})
    error, last = None, {}
    for line in worker.answers("lm"):
        last = line.chunk
        if last.get("type") == "error" and error is None:
            error = last
    # Output of the wrong shape is no reason to worry: the model was reached and answered.
    if error is not None and error.get("code") == "lm_output_invalid":
        error = None
    return error, bool(last.get("scripted"))
