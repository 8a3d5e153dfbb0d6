"""``python -m tests.benchmarks.peers``: measure, print a table, write a JSON file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.__main__ import BUILD, run_and_tell
from tests.benchmarks.peers.compare import PEERS, Comparison, Peer

FILE = "peers.json"
#: Made by ``make bench-peers``.
PYTHON = BUILD / "peers" / "bin" / "python"
_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {"peers' python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(python: str, names: list[str]) -> dict[str, str]:
    """Versions of the distributions ``names`` that ``python`` has, and its own."""
    done = subprocess.run([python, "-c", _VERSIONS, *names], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def chosen(names: list[str] | None) -> list[Peer]:
    """Those whose names begin with one of ``names``; all without."""
    return [peer for peer in PEERS if names is None or peer.name.startswith(tuple(names))]


def main(words: list[str] | None = None) -> int:
    """Run what the command line ``words`` asks for; 2 if there is no such peer or it is not installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work: to see that it runs")
    names = ", ".join(peer.name for peer in PEERS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"names, or how they begin: {names}")
    parser.add_argument("--output", type=Path, metavar="DIR", default=BUILD, help="default: %(default)s")
    parser.add_argument("--python", metavar="FILE", help=f"runs the peers (default: {PYTHON}, if there)")
    options = parser.parse_args(words)
    peers = chosen(options.only)
    if not peers:
        parser.error(f"no peer's name begins with {' or '.join(options.only)}")
    python = options.python or (str(PYTHON) if PYTHON.exists() else sys.executable)
    needed = sorted({peer.distribution for peer in peers if peer.distribution})
    found = versions(python, needed)
    if missing := [name for name in needed if name not in found]:
        parser.error(f"{python} has no {', '.join(missing)}; make bench-peers installs what is needed")
    comparisons = [Comparison(peer, python) for peer in peers]
    return run_and_tell(comparisons, options.output / FILE, quick=options.quick, versions=found)


if __name__ == "__main__":
    sys.exit(main())
