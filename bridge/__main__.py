"""The entry point. A worker guards its descriptors here, before anything else is imported."""

from __future__ import annotations

import gc
import os
import sys

# Only these two stand before the guard: both import nothing but os.
from bridge.worker.fdguard import ClosedStdout, take

USAGE = 2


def main() -> int:
    """Run ``dspy-bridge`` with the words of the command line; gives the exit code."""
    words = sys.argv[1:]
    if words[:1] == ["serve"]:
        words = words[1:]
    elif _is_terminal(0) or (words and not _is_serve_flag(words[0])):
        from bridge.cli import main as run_cli

        return run_cli(words)
    if not {"-h", "--help"}.isdisjoint(words):
        from bridge.cli.serve import print_help

        return print_help()
    return _serve(words)


def _serve(words: list[str]) -> int:
    try:
        stdin, stdout = take()
    except ClosedStdout:
        os.write(2, b"dspy-bridge: stdout is closed: there is nowhere to write chunks to.\n")
        return USAGE
    # Imports make much and leave no garbage: looking for it would be an eighth of the time to `ready`.
    gc.disable()
    from bridge.light_msgspec import import_msgspec

    import_msgspec()
    from bridge.start import start_worker

    code = start_worker(words, stdin, stdout)
    os._exit(code)  # without joining threads: a handler's may never end


def _is_serve_flag(word: str) -> bool:
    """Whether a first word asks for a worker without saying ``serve``: ``… | dspy-bridge --model x``."""
    return word.startswith("--") and word.partition("=")[0] not in ("--help", "--version")


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
