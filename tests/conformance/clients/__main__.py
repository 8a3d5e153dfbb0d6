"""``python -m tests.conformance.clients [--framing packet4] [--only TEXT] -- DRIVER ARGS…``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.conformance.client_kit import Case, load_cases, run_client_case
from tests.conformance.kit import Failed
from tests.support.drivers import Driver, DriverFailed


def main(argv: list[str]) -> int:
    """Run the cases with one driver, print a table; gives the exit code."""
    at = argv.index("--") if "--" in argv else len(argv)
    words, command = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.clients", usage="%(prog)s [options] -- DRIVER ARGS…"
    )
    parser.add_argument("--framing", choices=("lines", "packet4"), default="lines")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains TEXT")
    parser.add_argument("--without", action="append", default=[], metavar="NEED", help="see the README")
    options = parser.parse_args(words)
    if not command:
        parser.error("which driver? Give its command line after --")
    return _run(command, load_cases(options.only, options.framing, options.without), options.framing)


def _run(command: list[str], cases: list[Case], framing: str) -> int:
    driver, failed = Driver(command), 0
    try:
        for case in cases:
            if not driver.usable:
                driver.close()
                driver = Driver(command)
            begin = time.monotonic()
            try:
                run_client_case(case, driver, framing)
            except (Failed, DriverFailed) as error:
                failed += 1
                print(f"FAILED  {case['title']} ({error}; {driver.errors()})", flush=True)
                driver.close()
            else:
                print(f"passed  {case['title']} ({(time.monotonic() - begin) * 1e3:.0f} ms)", flush=True)
    finally:
        driver.close()
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except DriverFailed as error:
        sys.exit(str(error))
