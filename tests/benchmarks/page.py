"""The tables of ``bridge/docs/performance.md``, each from the rows of a snapshot."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from tests.benchmarks import cost_model
from tests.benchmarks.cost_model import Capacity, Work

Record = Mapping[str, Any]
Snapshot = Mapping[str, Any]

#: What the page calls rows; others stand under their own names.
LABELS: Final = {
    "stream.async.80b": "one stream, small chunks",
    "stream.async.10k-ascii": "one stream, 10 KB chunks",
    "stream.sync.80b": "one stream from a thread, small chunks",
    "burst": "1,000 streams of 100 chunks",
    "paced": "1,000 streams of a chunk every 10 ms",
    "paced.10k": "10,000 streams of a chunk a second, past their deadlines",
    "ping.idle.p50": "ping, median",
    "ping.beside-stream.p99": "ping beside a stream at full speed, 99th percentile",
    "token.first": "first tokens of 100 streams",
    "stream.54": "a prediction streamed in 54 deltas",
    "start.ready": "start to `ready`",
    "start.answer": "start to the first prediction",
    "rss.ready": "memory, before DSPy is loaded",
    "rss.dspy": "memory after a prediction",
    "memory.chunks": "growth over a million chunks",
    "memory.unread": "growth before a host that does not read",
    "family.hop.single": "the supervisor's part of a chunk that comes singly",
    "family.hop.bulk": "the same of a flood's",
    "family.hop.rate.80b": "one stream through the supervisor, small chunks",
    "family.hop.rate.10k-ascii": "the same, 10 KB chunks",
    "family.ready.16": "from DSPy's import to 16 workers that serve",
    "family.pss.16": "memory of 16 workers and their family (PSS)",
    "family.replaced": "from a worker's death to an answer of the next",
    "family.cpu_batch": "a batch on two workers, the LM answering at once",
    "dspy.gather": "one worker, at once",
    "dspy.parallel": "the same",
    "dspy.tuned": "the same",
    "dspy.workers": "two workers, at once",
    **{
        f"dspy.50ms.{in_flight}.{way}": f"{words}, {in_flight} in flight, 50 ms"
        for in_flight in (32, 256)
        for way, words in {
            "gather": "`asyncio.gather` over `acall`",
            "parallel": "`dspy.Parallel`",
            "one": "one worker",
            "two": "two workers",
        }.items()
    },
}
WORKER: Final = tuple(name for name in LABELS if not name.startswith(("family.", "dspy.")))
#: The columns of the table of peers: the row's last name, the head, and its unit.
PEER_FIGURES: Final = (
    ("small", "small chunks/s"),
    ("10k", "10 KB chunks/s"),
    ("small.cpu", "CPU µs/chunk"),
    ("answer", "answer µs"),
    ("ready", "ready ms"),
    ("rss", "RSS MB"),
)
#: Heads of the table of capacities and what is reckoned.
MACHINES: Final[tuple[tuple[str, Callable[[Work], Capacity]], ...]] = (
    ("one core, one worker", cost_model.single),
    ("8 cores, a family", lambda work: cost_model.machine(work, 8)),
    ("32 cores, a family", lambda work: cost_model.machine(work, 32)),
    ("32 cores, 4 families", lambda work: cost_model.machine(work, 32, 4)),
    ("4 such machines", lambda work: cost_model.cluster(work, 4, 32, 4)),
)
LATENCY_S: Final = 2.0
_NOTHING: Final = "*Not measured yet.*"
_MARKED: Final = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str, snapshot: Snapshot) -> str:
    """``page`` with all tables made anew: each stands between ``table: NAME`` and ``end``.

    :raises KeyError: there is no such table, or a row is missing that the model reckons with.
    """
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](snapshot)}\n{found[3]}", page)


def figure(value: float) -> str:
    """Three significant digits."""
    if not value:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def values(snapshot: Snapshot) -> dict[str, float]:
    """Values of the benchmarks' rows by name."""
    return {name: row["value"] for name, row in _rows(snapshot).items()}


def _rows(snapshot: Snapshot, run: str = "benchmarks") -> dict[str, Record]:
    return {row["name"]: row for row in snapshot.get(run, {}).get("rows", ())}


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *lines]
    if len(cells) == 2:
        return _NOTHING
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _beside(rows: Iterable[Record]) -> str:
    return _table(("", "", "beside", "", "ratio"), map(_beside_line, rows))


def _beside_line(row: Record) -> list[str]:
    name = row["name"]
    floor = "" if row["floor_value"] is None else f"{figure(row['floor_value'])} {row['unit']}"
    ratio = "" if row["ratio"] is None else figure(row["ratio"])
    label = LABELS.get(name, f"`{name}`")
    return [label, f"{figure(row['value'])} {row['unit']}", row["floor"] or "", floor, ratio]


def _worker(snapshot: Snapshot) -> str:
    rows = _rows(snapshot)
    return _beside(rows[name] for name in WORKER if name in rows)


def _named(prefix: str) -> Callable[[Snapshot], str]:
    return lambda snapshot: _beside(row for name, row in _rows(snapshot).items() if name.startswith(prefix))


def _peers(snapshot: Snapshot) -> str:
    rows = _rows(snapshot, "peers")
    names = dict.fromkeys(name.partition(".")[0] for name in rows)
    lines = []
    for name in names:
        found = [rows.get(f"{name}.{key}") for key, _ in PEER_FIGURES]
        label = next(row["floor"] for row in found if row)
        cells = (f"{figure(row['value'])} : {figure(row['floor_value'])}" if row else "" for row in found)
        small = rows.get(f"{name}.small")
        lines.append([label, figure(small["ratio"]) if small else "", *cells])
    return _table(("worker : peer", "ratio", *(head for _, head in PEER_FIGURES)), lines)


def _costs(snapshot: Snapshot) -> str:
    heads = (
        "",
        "a worker's core",
        "the supervisor's core",
        "most through one supervisor",
        "cores in use when it is full",
    )
    return _table(heads, map(_cost_line, cost_model.works(values(snapshot))))


def _cost_line(work: Work) -> list[str]:
    unit = work.unit.removesuffix("s/s")
    costs = [f"{figure(cost)} µs/{unit}" for cost in (work.worker_us, work.hop_us)]
    most = f"{figure(1e6 / work.hop_us)} {work.unit}"
    return [work.name, *costs, most, figure(cost_model.enough_cores(work))]


def _carries(snapshot: Snapshot) -> str:
    lines = [
        [f"{work.name}, {work.unit}", *(_capacity(reckon(work)) for _, reckon in MACHINES)]
        for work in cost_model.works(values(snapshot))
    ]
    return _table(("", *(head for head, _ in MACHINES)), lines)


def _capacity(capacity: Capacity) -> str:
    return figure(capacity.rate) + ("*" if capacity.limit == cost_model.SUPERVISOR else "")


def _waiting(snapshot: Snapshot) -> str:
    found = values(snapshot)
    held = cost_model.memory(found)
    (work,) = (work for work in cost_model.works(found) if work.name.startswith("predictions, a request"))
    lines = []
    for label, cores in (("one core, one worker", 1), ("8 cores, a family", 8), ("32 cores, a family", 32)):
        rate = (cost_model.single(work) if cores == 1 else cost_model.machine(work, cores)).rate
        requests = cost_model.in_flight(rate, LATENCY_S)
        default = min(rate, cost_model.MAX_IN_FLIGHT / LATENCY_S)
        if cores == 1:
            size = held.single_mb + requests * held.request_kb / 1e3
        else:
            size = cost_model.family_mb(held, cores, requests)
        lines.append([label, figure(rate), figure(requests), f"{figure(size)} MB", figure(default)])
    heads = ("", "predictions/s", "in flight", "memory", f"with `--max-inflight {cost_model.MAX_IN_FLIGHT}`")
    return _table(heads, lines)


def _scaling(snapshot: Snapshot) -> str:
    lines = []
    for name, row in _rows(snapshot).items():
        if found := re.fullmatch(r"scale\.workers\.(cpu|io)\.(\d+)", name):
            kind = {"cpu": "at once", "io": "after 50 ms"}[found[1]]
            lines.append([kind, found[2], figure(row["value"]), figure(row["ratio"] * int(found[2]))])
    return _table(("LM answers", "workers", "predictions/s", "times one worker's"), lines)


def _memory(snapshot: Snapshot) -> str:
    found = values(snapshot)
    names = {
        "single": "a worker alone",
        "family": "a family without its workers",
        "worker": "each worker of a family",
        "request": "each request that waits in a handler",
        "prediction": "each prediction that waits for its LM",
    }
    rows = {row["name"]: row["unit"] for row in _rows(snapshot).values()}
    memory = {label: f"cost.memory.{name}" for name, label in names.items()}
    lines = [[label, f"{figure(found[name])} {rows[name].split('/')[0]}"] for label, name in memory.items()]
    idle = {"a worker alone, idle": "single", "a family of 16, idle": "family.16"}
    lines += [[label, f"{figure(found[f'cost.idle.{name}'])} ms of CPU/s"] for label, name in idle.items()]
    return _table(("", ""), lines)


def _machine(run: str) -> Callable[[Snapshot], str]:
    return lambda snapshot: _measured(snapshot[run]) if run in snapshot else _NOTHING


def _measured(run: Record) -> str:
    """When, where, and how busy the machine was with other things when it ended."""
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = f"load average {machine['load'][2]:.1f}"
    where = f"{machine['cpus']} cores, {load}, Python {machine['python']}"
    return f"Measured on {run['date'][:10]}: {where}, {versions}."


TABLES: Final[Mapping[str, Callable[[Snapshot], str]]] = {
    "machine": _machine("benchmarks"),
    "peers-machine": _machine("peers"),
    "worker": _worker,
    "family": _named("family."),
    "dspy": _named("dspy."),
    "peers": _peers,
    "costs": _costs,
    "memory": _memory,
    "carries": _carries,
    "waiting": _waiting,
    "scaling": _scaling,
}
