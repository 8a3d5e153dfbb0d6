"""Running the command line as a person or a script would: in a pipe, or on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTED = ("--model", "scripted", "--script", str(EXAMPLES / "quickstart.script.jsonl"))
BATCH = (
    "call",
    "stream_predict_batch",
    "signature=text -> completion",
    f"items=@{EXAMPLES / 'quickstart.jsonl'}",
)
WAIT_S = 60.0


def environment(**extra: str) -> dict[str, str]:
    """The environment without what would choose a language model, and with this tree's package."""
    # nor what make hands on: one that runs inside another talks about its directories
    unwanted = ("DSPY_", "OPENAI_", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "PYTHON": sys.executable} | extra


def command(*words: str) -> list[str]:
    """The command line of ``dspy-bridge`` with ``words``."""
    return [sys.executable, "-m", "bridge", *words]


def run(*words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``dspy-bridge`` with ``words`` in pipes, to its end."""
    return subprocess.run(
        command(*words),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment(**env),
        check=False,
    )


def run_on_terminal(
    *words: str, on_output: Callable[[str, subprocess.Popen[bytes]], None] | None = None
) -> tuple[int, str]:
    """Run ``dspy-bridge`` on a terminal of its own; gives the exit code and all that it showed.

    ``on_output`` is called with everything shown so far, each time there is more.
    """
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm", COLUMNS="150")
    with subprocess.Popen(
        command(*words), stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := _read(ours):
                shown += data
                if on_output:
                    on_output(shown.decode("utf-8", "replace"), process)
        finally:
            os.close(ours)
        return process.wait(WAIT_S), shown.decode("utf-8", "replace")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # a terminal that all have left gives EIO
        return b""
