"""``stats`` of a family: the supervisor's own counters, the workers' summed, and a row for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from bridge.family.child import Child, State
from bridge.family.crew import Crew

#: How long a worker may take to tell its counters before its row does without them.
ANSWER_S: Final = 1.0
#: What the supervisor does not count itself.
SUMMED: Final = ("rss_mb", "threads", "late_tool_results", "abandoned_threads", "log_lines_dropped")


async def family_stats(own: dict[str, Any], crew: Crew) -> dict[str, Any]:
    """What one worker tells, for all together, with ``family`` (how many, and how they ended)
    and ``workers`` (rows).

    A row has ``pid``, ``state``, ``in_flight``, ``taken``, ``age_s``, and what the worker told itself;
    ``answers`` is false where it did not in time.
    """
    asked = [(child, _ask(child, crew)) for child in crew.children if child.state is not State.GONE]
    if asked:
        await asyncio.wait([answer for _, answer in asked], timeout=ANSWER_S)
    rows = [(child, answer.result() if answer.done() else None) for child, answer in asked]
    told = [row for _, row in rows if row is not None]
    sums = {name: round(own[name] + sum(row[name] for row in told), 1) for name in SUMMED}
    return {
        **own,
        **sums,
        "dspy": _dspy([row["dspy"] for row in told]),
        "family": {"workers": crew.size, "serving": crew.serving, **crew.counts},
        "workers": [_row(child, row) for child, row in rows],
    }


def _ask(child: Child, crew: Crew) -> asyncio.Future[Mapping[str, Any] | None]:
    answer: asyncio.Future[Mapping[str, Any] | None] = asyncio.get_running_loop().create_future()

    def answered(chunk: Mapping[str, Any] | None) -> None:
        if not answer.done():
            answer.set_result(chunk if chunk is not None and chunk["type"] == "result" else None)

    if child.state is State.STARTING:
        answer.set_result(None)
    else:
        crew.ask(child, "stats", {}, answered)
    return answer


def _row(child: Child, told: Mapping[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pid": child.pid,
        "state": child.state.name.lower(),
        "in_flight": child.load,
        "taken": child.taken,
        "age_s": round(child.age, 3),
        "answers": told is not None,
    }
    if told is not None:
        row |= {name: told[name] for name in ("rss_mb", "threads", "chunks", "errors")}
    return row


def _dspy(snapshots: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The workers' language models by name, their uses summed."""
    lms: dict[str, Any] = {}
    inline: Counter[str] = Counter()
    for snapshot in snapshots:
        inline["inline_lms"] += snapshot.get("inline_lms", 0)
        for name, lm in snapshot["lms"].items():
            lms[name] = {**lm, "in_use": lm["in_use"] + lms.get(name, {}).get("in_use", 0)}
    loaded = any(snapshot["loaded"] for snapshot in snapshots)
    told = {"loaded": loaded, "lms": lms, **inline}
    servers = [snapshot["mcp"] for snapshot in snapshots if "mcp" in snapshot]
    return {**told, "mcp": servers} if servers else told
