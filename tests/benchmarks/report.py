"""The table and the file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bridge import __version__
from tests.benchmarks.measure import Row

COLUMNS = ("", "value", "unit", "floor", "floor's value", "ratio", "target", "met")


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)])


def as_json(rows: list[Row], *, quick: bool, versions: Mapping[str, str] | None = None) -> str:
    """The run as a JSON document; ``extra`` holds each round's figures.

    ``versions``: of what else was measured, by name.
    """
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": _machine(versions or {}),
        "rows": [_record(row) for row in rows],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def save(text: str, path: Path) -> None:
    """Write the document, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _record(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "value": row.value,
        "unit": row.unit,
        "floor": row.floor,
        "floor_value": row.floor_value,
        "ratio": row.ratio,
        "target": None if row.target is None else str(row.target),
        "met": row.met,
        "extra": row.extra,
    }


def _machine(others: Mapping[str, str]) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in ("dspy", "orjson", "msgspec")}
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"bridge": __version__, **versions, **others},
        "load": os.getloadavg(),
    }


def _cells(row: Row) -> list[str]:
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    floor_value = "" if row.floor_value is None else _figure(row.floor_value)
    ratio = "" if row.ratio is None else _ratio(row.ratio)
    target = "" if row.target is None else str(row.target)
    return [row.name, _figure(row.value), row.unit, row.floor or "", floor_value, ratio, target, met]


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
