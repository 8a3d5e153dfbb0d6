"""Running the cases against a command line."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.conformance.patterns import mismatch
from tests.support.wirecheck import Chunk, Key, key_of
from tests.support.worker import Worker

CASES = Path(__file__).parent / "cases"
Case = dict[str, Any]


class Failed(AssertionError):
    """The worker did not do what a case says."""


def load_cases(only: str = "") -> list[Case]:
    """All cases whose name contains ``only``."""
    cases: list[Case] = []
    for path in sorted(CASES.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        cases.extend({**case, "name": f"{path.stem}: {case['name']}"} for case in found)
    return [case for case in cases if only in case["name"]]


class Run:
    """One case against one fresh worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._taken: dict[Key, int] = {}
        self._pings = 0
        self._steps: dict[str, Callable[[dict[str, Any]], None]] = {
            name: getattr(self, f"_{name}")
            for name in ("send", "line", "base64", "pad", "nest", "eof", "expect", "done", "unbound")
        } | {"settle": self._settle, "count": self._count, "exit": self._exit}

    def play(self, case: Case) -> None:
        """Go through the case's steps.

        :raises Failed: at the first that is not as it should be, saying which.
        """
        for number, step in enumerate(case["steps"], 1):
            kind = next(name for name in self._steps if name in step)
            try:
                self._steps[kind](step)
            except Exception as error:
                raise Failed(f"step {number} {json.dumps(step)[:200]}: {error}") from error

    # ---- what is written -----------------------------------------------------------------------

    def _send(self, step: dict[str, Any]) -> None:
        text = json.dumps(step["send"])
        if '"$call_id"' in text:
            calls = [chunk["call_id"] for chunk in self._worker.received if "call_id" in chunk]
            text = text.replace('"$call_id"', json.dumps(calls[-1]))
        self._worker.line(text)

    def _line(self, step: dict[str, Any]) -> None:
        self._worker.line(step["line"])

    def _base64(self, step: dict[str, Any]) -> None:
        self._worker.line(base64.b64decode(step["base64"]))

    def _pad(self, step: dict[str, Any]) -> None:
        before, after = step["pad"]
        size = self._limit("max_line_bytes") + step["extra"] - len(before) - len(after)
        self._worker.line(before + "x" * size + after)

    def _nest(self, step: dict[str, Any]) -> None:
        outer = step["before"].count("{") - step["before"].count("}")
        levels = self._limit("max_depth") + step["nest"] - outer
        self._worker.line(step["before"] + "[" * levels + "]" * levels + step["after"])

    def _eof(self, step: dict[str, Any]) -> None:
        self._worker.close_stdin()

    def _limit(self, name: str) -> int:
        return int(self._worker.ready["limits"][name])

    # ---- what comes back -----------------------------------------------------------------------

    def _expect(self, step: dict[str, Any]) -> None:
        _match(step["expect"], self._next(step["id"]))

    def _done(self, step: dict[str, Any]) -> None:
        before = 0
        while "done" not in (chunk := self._next(step["done"])):
            before += 1
        if "type" in step and chunk["type"] != step["type"]:
            raise Failed(f"it ended with {chunk}")
        if step.get("chunks", before) != before:
            raise Failed(f"{before} chunks came before done")

    def _unbound(self, step: dict[str, Any]) -> None:
        _match(step["unbound"], self._next(None))

    def _settle(self, step: dict[str, Any]) -> None:
        self._pings += 1
        request_id = f"kit ping {self._pings}"
        self._worker.send(id=request_id, command="ping")
        self._next(request_id)

    def _count(self, step: dict[str, Any]) -> None:
        found = len(self._of(step["id"]))
        if found != step["count"]:
            raise Failed(f"{found} chunks have come")

    def _exit(self, step: dict[str, Any]) -> None:
        self._worker.rest()
        if (code := self._worker.wait()) != step["exit"]:
            raise Failed(f"the exit code is {code}")

    def _of(self, request_id: str | int | None) -> list[Chunk]:
        chunks = self._worker.received
        if request_id is None:
            return [chunk for chunk in chunks if chunk["id"] is None]
        return [
            chunk for chunk in chunks if chunk["id"] is not None and key_of(chunk["id"]) == key_of(request_id)
        ]

    def _next(self, request_id: str | int | None) -> Chunk:
        """The next chunk of this id that the case has not looked at."""
        key: Key = (type(None), "") if request_id is None else key_of(request_id)
        taken = self._taken.get(key, 1 if request_id is None else 0)  # ready was looked at
        while len(chunks := self._of(request_id)) <= taken:
            if not self._worker.read_some():
                raise Failed("the output has ended")
        self._taken[key] = taken + 1
        return chunks[taken]


def _match(pattern: dict[str, Any], chunk: Chunk) -> None:
    if found := mismatch(pattern, chunk):
        raise Failed(f"{found} in {json.dumps(chunk)[:400]}")


def run_case(case: Case, argv: Sequence[str], framing: str) -> str | None:
    """Run a case; None when it passed, else why it is not applicable.

    :raises Failed: when the worker did something else.
    """
    with Worker(argv=list(argv), framing=framing, ready=False) as worker:
        try:
            worker.ready = worker.next()
            if missing := set(case.get("needs", ())) - set(worker.ready["commands"]):
                return f"needs {', '.join(sorted(missing))}"
            Run(worker).play(case)
        except Failed:
            raise
        except Exception as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
    return None
