"""``python -m tests.conformance [--framing packet4] [--only TEXT] -- COMMAND ARGS…``."""

from __future__ import annotations

import argparse
import sys

from tests.conformance.kit import Failed, load_cases, run_case


def main(argv: list[str]) -> int:
    """Run the cases, print a table; gives the exit code."""
    words, command = _split(argv)
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", usage="%(prog)s [options] -- COMMAND ARGS…"
    )
    parser.add_argument("--framing", choices=("lines", "packet4"), default="lines")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains TEXT")
    options = parser.parse_args(words)
    if not command:
        parser.error("which command line? Give it after --")
    counts = {"passed": 0, "FAILED": 0, "n/a": 0}
    for case in load_cases(options.only):
        outcome, why = _outcome(case, command, options.framing)
        counts[outcome] += 1
        print(f"{outcome:<7} {case['name']}{f' ({why})' if why else ''}", flush=True)
    print(f"{counts['passed']} passed, {counts['FAILED']} failed, {counts['n/a']} not applicable")
    return 1 if counts["FAILED"] or not counts["passed"] else 0


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _outcome(case: dict[str, object], command: list[str], framing: str) -> tuple[str, str]:
    try:
        why = run_case(case, command, framing)
    except Failed as error:
        return "FAILED", str(error)
    return ("n/a", why) if why else ("passed", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
