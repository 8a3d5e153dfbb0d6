"""Running the cases for clients: a driver on one side, players of workers on the other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tests.conformance.filling import filled
from tests.conformance.kit import Failed
from tests.conformance.patterns import mismatch
from tests.conformance.stage import Stage
from tests.support.drivers import Driver, DriverFailed, Event
from tests.support.worker import PATIENCE, wait_gone

CASES = Path(__file__).parent / "clients"
Case = dict[str, Any]
Step = dict[str, Any]
#: Seconds that a client may take to end a worker that does not end by itself.
STOP_S = 45.0
_run_numbers = itertools.count(1)


def load_cases(only: str = "", framing: str = "", without: Collection[str] = ()) -> list[Case]:
    """The cases whose full name contains ``only``, that fit the framing and need nothing of ``without``."""
    cases: list[Case] = []
    for path in sorted(CASES.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            title = f"{path.stem}: {case['name']}"
            fits = framing in ("", case.get("framing", framing)) and only in title
            if fits and not set(case.get("needs", ())) & set(without):
                cases.append({**case, "path": path, "title": title})
    return cases


class ClientRun:
    """One case with one client."""

    def __init__(self, case: Case, driver: Driver, framing: str, stage: Stage) -> None:
        self._case = case
        self._driver = driver
        self._framing = framing
        self._stage = stage
        self._prefix = f"{next(_run_numbers)}."
        self._refs: set[str] = set()
        self._stopped = False
        # A client of one worker may start another when that ends: it is no part of the case.
        self._judged = None if case.get("start", {}).get("workers") else 1
        self._steps: dict[str, Callable[[Any, Step], None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }

    def play(self) -> None:
        """Start a client, go through the host's steps, stop it, hear the players.

        :raises Failed: at the first thing that is not as it should be.
        """
        start = self._case.get("start", {})
        try:
            self._step(0, {"op": {"op": "start", **{k: v for k, v in start.items() if k != "expect"}}})
            self._step(0, {"event": {"ref": "start", **start.get("expect", {"event": "started"})}})
            for number, step in enumerate(self._case["host"], 1):
                self._step(number, step)
            begun = start.get("expect", {}).get("event") != "failed"
            if begun and not self._stopped:
                self._step(0, {"stop": {}})
            self._players_end()
        except Failed as error:
            said = self._stage.verdict(self._judged) or ""
            raise Failed(str(error) if said in str(error) else f"{error}; {said}") from error

    def _step(self, number: int, step: Step) -> None:
        kind = next((name for name in self._steps if name in step), None)
        try:
            if kind is None:
                raise Failed("there is no such step")
            self._steps[kind](filled(step[kind], {}), step)
        except (Failed, DriverFailed, TimeoutError) as error:
            raise Failed(f"host's step {number} {json.dumps(step)[:300]}: {error}") from error

    def _players_end(self) -> None:
        for report in [one for one in self._stage.reports if one["event"] == "started"]:
            try:
                wait_gone(report["pid"], PATIENCE)
            except TimeoutError as error:
                raise Failed(f"after stop, worker {report['start']} is still there") from error
        if said := self._stage.verdict(self._judged):
            raise Failed(said)
        loose = set(self._case.get("loose", ()))
        for ref in sorted(self._refs - loose):
            if events := self._driver.leftover(self._prefix + ref):
                raise Failed(f"more events for {ref!r} than should be: {json.dumps(events)[:400]}")

    # ---- steps ---------------------------------------------------------------------------------

    def _do_op(self, operation: Any, step: Step) -> None:
        fields = dict(operation)
        op = fields.pop("op")
        ref = fields.pop("ref", op)
        self._refs.add(ref)
        if op == "start":
            argv = self._stage.argv(self._case["path"], self._case["name"], self._framing)
            fields = {"argv": argv, "workers": 0, "framing": self._framing, **fields}
        elif op in ("call", "stream"):
            fields = {"args": {}, **({"report": "chunks"} if op == "stream" else {}), **fields}
        self._driver.do(op, self._prefix + ref, **fields)

    def _do_event(self, pattern: Any, step: Step) -> None:
        event = self._event(pattern["ref"], step.get("within_ms", PATIENCE * 1e3) / 1e3)
        _match(pattern, event)

    def _do_started(self, number: Any, step: Step) -> None:
        report = self._stage.report(number, "started")
        if "after" in step:
            waited = (report["at"] - self._stage.report(step["after"], "started")["at"]) * 1e3
            if waited < step["not_before_ms"]:
                raise Failed(f"it was started {waited:.0f} ms after worker {step['after']}")

    def _do_ready(self, number: Any, step: Step) -> None:
        self._stage.report(number, "ready")

    def _do_serving(self, number: Any, step: Step) -> None:
        """This player's part is over: it answers ``ping`` and ``kit.echo`` from now on."""
        self._stage.report(number, "serving")

    def _do_gone(self, number: Any, step: Step) -> None:
        self._stage.gone(number, step.get("within_ms", PATIENCE * 1e3) / 1e3)

    def _do_pids(self, numbers: Any, step: Step) -> None:
        """The client knows the pids of these starts, and no others."""
        expected = sorted(self._stage.report(number, "started")["pid"] for number in numbers)
        self._do_op({"op": "pids"}, step)
        found = self._event("pids", PATIENCE)
        if sorted(found.get("pids", [])) != expected:
            raise Failed(f"the workers' pids are {expected}, not {found}")

    def _do_stop(self, fields: Any, step: Step) -> None:
        """``begin``: do not wait for its end, which ``end`` does later."""
        if not fields.get("end"):
            grace = {"grace_ms": fields["grace_ms"]} if "grace_ms" in fields else {}
            self._do_op({"op": "stop", **grace}, step)
            self._stopped = True
        if not fields.get("begin"):
            _match({"event": "stopped"}, self._event("stop", STOP_S))
            if living := self._stage.living():
                raise Failed(f"it is stopped, and worker {living[0]['start']} lives")

    def _event(self, ref: str, timeout: float) -> Event:
        event = self._driver.event(self._prefix + ref, timeout)
        return {**event, "ref": ref}


def _match(pattern: Any, event: Event) -> None:
    if found := mismatch(pattern, event):
        raise Failed(f"{found[:400]} in {json.dumps(event)[:600]}")


def run_client_case(case: Case, driver: Driver, framing: str) -> None:
    """Run a case with a driver, which can be used for the next one if this comes back.

    :raises Failed: when the client did something else.
    """
    driver.forget_errors()
    with Stage() as stage:
        ClientRun(case, driver, framing, stage).play()
