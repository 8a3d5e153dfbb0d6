"""The subcommands and what is said when none, or a wrong one, is given."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from bridge._version import __version__
from bridge.cli.flags import BROKEN_PIPE, INTERRUPTED, OK, USAGE, WORKER_DIED, complain, did_you_mean
from bridge.cli.process import WorkerDied
from bridge.cli.usage import Usage

#: Subcommand: the module and the function that run it. Imported on use: `--help` should be quick.
_SUBCOMMANDS = {
    "call": ("bridge.cli.call", "call"),
    "describe": ("bridge.cli.describe", "describe"),
    "show": ("bridge.cli.call", "show"),
    "doctor": ("bridge.cli.doctor", "doctor"),
}

HELP = """\
dspy-bridge runs DSPy in a long-lived worker that speaks JSON lines over stdin and stdout.

  dspy-bridge serve                     be a worker (also without 'serve', when stdin is no terminal)
  dspy-bridge call COMMAND key=value …  send one request to a worker of its own and show the answer
  dspy-bridge describe [COMMAND]        list the commands, or explain one
  dspy-bridge show [FILE]               make a worker's chunks readable
  dspy-bridge doctor                    check this installation, and the language model if one is set

Each takes --help. Try: dspy-bridge call ping"""


def main(argv: Sequence[str]) -> int:
    """Run the subcommand that ``argv`` (without the program's name) names; gives the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # it is a TextIOWrapper
    try:
        code = _run(list(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except Usage as error:
        complain(f"dspy-bridge: {error}")
        return USAGE
    except WorkerDied as error:
        complain(f"dspy-bridge: {error}")
        return WORKER_DIED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as leave:  # argparse, after --help
        return leave.code if isinstance(leave.code, int) else USAGE
    if code == BROKEN_PIPE:
        # What is left in the buffer has no reader; without this the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(argv: list[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in ("-h", "--help", "help"):
        print(HELP)
        return OK
    if first in ("-V", "--version"):
        print(f"dspy-bridge {__version__}")
        return OK
    if first not in _SUBCOMMANDS:
        raise Usage(_unknown(first))
    module, name = _SUBCOMMANDS[first]
    run: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
    return run(argv[1:])


def _unknown(word: str) -> str:
    what = "option" if word.startswith("-") else "subcommand"
    known = [*_SUBCOMMANDS, "serve", "--help", "--version"]
    hint = "" if what == "option" and _is_serve_flag(word) else did_you_mean(word, known)
    if what == "option":
        instead = f" To start a worker: dspy-bridge serve {word}"
    else:
        instead = f" To send a command: dspy-bridge call {word}"
    return f"Unknown {what} {word!r}.{hint or instead}\nSee: dspy-bridge --help"


def _is_serve_flag(word: str) -> bool:
    from bridge.cli.serve import FLAGS, flag_of

    return word.split("=", 1)[0] in {"--commands", *(flag_of(name) for name, *_ in FLAGS)}
