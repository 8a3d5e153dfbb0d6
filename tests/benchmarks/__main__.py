"""``python -m tests.benchmarks``: measure, print a table, write a JSON file."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.benchmarks import (
    batch,
    clients,
    dspy_beside,
    family,
    latency,
    many,
    memory,
    report,
    scaling,
    startup,
    streams,
    tokens,
)
from tests.benchmarks.child import ROOT
from tests.benchmarks.measure import Row, Settings

FILE = "latest.json"
BUILD = ROOT / ".bench"


class Benchmark(Protocol):
    """Something that is measured, giving one row or more."""

    @property
    def name(self) -> str: ...

    def __call__(self, settings: Settings) -> Iterator[Row]: ...


MODULES = (streams, many, latency, startup, batch, dspy_beside, family, tokens, memory, scaling, clients)


def all_benchmarks() -> list[Benchmark]:
    """Every benchmark, in the table's order."""
    return [benchmark for module in MODULES for benchmark in module.BENCHMARKS]


def chosen(names: list[str] | None) -> list[Benchmark]:
    """Those whose names begin with one of ``names``; all without."""
    found = all_benchmarks()
    return [item for item in found if item.name.startswith(tuple(names))] if names else found


def run(
    benchmarks: Sequence[Benchmark], settings: Settings, tell: Callable[[str], object]
) -> tuple[list[Row], int]:
    """The rows of all, one benchmark after the other, and how many have failed: the others are kept."""
    rows: list[Row] = []
    failures = 0
    for number, benchmark in enumerate(benchmarks, 1):
        tell(f"[{number}/{len(benchmarks)}] {benchmark.name}\n")
        try:
            rows.extend(benchmark(settings))
        except Exception:  # noqa: BLE001 - whatever it is, an hour's figures are not lost to it
            failures += 1
            tell(traceback.format_exc())
    return rows, failures


def run_and_tell(
    benchmarks: Sequence[Benchmark], path: Path, *, quick: bool, versions: dict[str, str] | None = None
) -> int:
    """Run all, write the document to ``path``, print the table; 1 if a benchmark failed."""
    rows, failures = run(benchmarks, Settings(quick=quick), sys.stderr.write)
    report.save(report.as_json(rows, quick=quick, versions=versions), path)
    if BUILD in path.parents:
        (BUILD / ".gitignore").write_text("*\n", encoding="utf-8")
    print(report.table(rows))
    print(f"\nWritten to {path}")
    return 1 if failures else 0


def main(words: list[str] | None = None) -> int:
    """Run what the command line ``words`` asks for; 1 if a benchmark failed, 2 if there is no such one."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work: to see that it runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names, or how they begin")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"where to write (default DIR/{FILE})")
    parser.add_argument("--output", type=Path, metavar="DIR", default=BUILD, help="default: %(default)s")
    options = parser.parse_args(words)
    benchmarks = chosen(options.only)
    if not benchmarks:
        parser.error(f"no benchmark's name begins with {' or '.join(options.only)}")
    if options.list:
        print("\n".join(benchmark.name for benchmark in benchmarks))
        return 0
    return run_and_tell(benchmarks, options.json or options.output / FILE, quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
