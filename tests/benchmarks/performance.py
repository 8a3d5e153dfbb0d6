"""``python -m tests.benchmarks.performance``: write the tables and the plot of the page on performance.

They are made from a snapshot of the benchmarks' files that is kept beside this module. ``--take`` makes the
snapshot anew from what ``make bench`` and ``make bench-peers`` have written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import cost_model, page
from tests.benchmarks.__main__ import BUILD, FILE
from tests.benchmarks.child import ROOT
from tests.benchmarks.plot import Chart, Line, svg
from tests.benchmarks.scaling import IN_FLIGHT, LATENCY_S

SNAPSHOT = Path(__file__).parent / "performance.json"
PAGE = ROOT / "bridge" / "docs" / "performance.md"
PLOT = PAGE.with_suffix(".svg")
#: Where each run stands in the snapshot, and the file it comes from.
RUNS = {"benchmarks": FILE, "peers": "peers.json"}
CORES = (1, 2, 4, 8, 16, 32, 64, 128)
#: Points between two ticks: where a supervisor is full is seldom a power of two.
BETWEEN = 8


def taken(folder: Path, old: dict[str, Any]) -> dict[str, Any]:
    """A snapshot of the files in ``folder``; a run whose file is not there stays as it is in ``old``.

    :raises ValueError: a run was a quick one, whose figures mean nothing.
    """
    snapshot = dict(old)
    for run, name in RUNS.items():
        if (path := folder / name).exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["quick"]:
                raise ValueError(f"{path} is of a quick run")
            snapshot[run] = {**document, "rows": [_without_rounds(row) for row in document["rows"]]}
    return snapshot


def _without_rounds(row: dict[str, Any]) -> dict[str, Any]:
    """The row without each round's own figures."""
    return {**row, "extra": {key: value for key, value in row["extra"].items() if not _is_list(value)}}


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def charts(snapshot: dict[str, Any]) -> list[Chart]:
    """What the page shows: requests in flight, and cores."""
    values = page.values(snapshot)
    works = cost_model.works(values)
    (item,) = (work for work in works if work.unit == "items/s")
    measured = [(n, values[f"scale.in_flight.{n}"]) for n in IN_FLIGHT]
    reckoned = [(n, cost_model.waiting_rate(item, n, LATENCY_S)) for n in IN_FLIGHT]
    in_flight = Chart(
        f"One worker, each prediction waiting {LATENCY_S * 1e3:.0f} ms for the LM",
        "predictions in flight",
        "items/s",
        IN_FLIGHT,
        [Line("measured", measured), Line("reckoned", reckoned, dashed=True, colour=1)],
    )
    points = [2 ** (step / BETWEEN) for step in range(BETWEEN * (len(CORES) - 1) + 1)]
    lines = [
        Line(work.name, [(n, cost_model.machine(work, n).rate) for n in points], dashed=True, colour=number)
        for number, work in enumerate(works)
    ]
    two = [(n, values[f"scale.workers.cpu.{n}"]) for n in (1, 2)]
    lines.append(Line("items of batches, measured", two, colour=works.index(item)))
    cores = Chart("What a family carries, reckoned", "cores", "1/s", CORES, lines)
    return [in_flight, cores]


def write(snapshot: dict[str, Any]) -> None:
    """Write the page's tables and the plot."""
    PAGE.write_text(page.render(PAGE.read_text(encoding="utf-8"), snapshot), encoding="utf-8")
    PLOT.write_text(svg(charts(snapshot)), encoding="utf-8")


def load() -> dict[str, Any]:
    """The snapshot that is kept."""
    snapshot: dict[str, Any] = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return snapshot


def main(words: list[str] | None = None) -> int:
    """Do what the command line ``words`` asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.performance", description=__doc__)
    parser.add_argument(
        "--take", type=Path, nargs="?", const=BUILD, metavar="DIR", help=f"take the files of DIR ({BUILD})"
    )
    options = parser.parse_args(words)
    snapshot = load() if SNAPSHOT.exists() else {}
    if options.take is not None:
        try:
            snapshot = taken(options.take, snapshot)
        except ValueError as error:
            parser.error(str(error))
        text = json.dumps(snapshot, indent=1, ensure_ascii=False)
        SNAPSHOT.write_text(text + "\n", encoding="utf-8")
    write(snapshot)
    print(f"wrote {PAGE.relative_to(ROOT)} and {PLOT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
