"""A host that can be killed: starts a worker on pipes, says its pid, and then only waits.

``python -m tests.support.host HOW REQUESTS FLAG…``: ``HOW`` is ``reads`` or ``full`` (stdout is never
read after ``started``); ``REQUESTS`` are bytes for the worker's stdin. Prints the worker's pid once every
``started`` has come.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.support.worker import command_line


def main() -> None:
    how, requests, *flags = sys.argv[1:]
    worker = subprocess.Popen(command_line(*flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert worker.stdin is not None
    assert worker.stdout is not None
    os.write(worker.stdin.fileno(), requests.encode())
    wanted, seen = requests.count("\n"), b""
    while seen.count(b'"started"') < wanted and not (how == "full" and seen.count(b"\n") > 10):
        data = os.read(worker.stdout.fileno(), 4096)
        if not data:
            sys.exit(f"the worker ended early: {seen!r}")
        seen += data
    print(worker.pid, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
