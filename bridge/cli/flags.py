"""Argument parsing that is kind to a person who mistyped, and the flags handed on to the worker."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

#: Exit codes of every subcommand but ``serve``.
OK, FAILED, USAGE, WORKER_DIED = 0, 1, 2, 3
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells have it

#: Flags of ``serve`` that ``call``, ``describe`` and ``doctor`` take and pass on: name, metavar, help.
_WORKER_FLAGS = (
    ("--model", "MODEL", "language model, such as openai/gpt-4o-mini (default: DSPY_BRIDGE_MODEL)"),
    ("--api-base", "URL", "address of the model's API"),
    ("--adapter", "NAME", "how prompts are written: chat, json or xml"),
    ("--script", "FILE", "canned answers for the model 'scripted'"),
    ("--script-tokens-per-s", "N", "pace of the scripted model's tokens"),
    ("--commands", "MODULE", "import MODULE for its commands (may be repeated)"),
    ("--cache-dir", "DIR", "keep answers of language models in DIR"),
    ("--log-level", "LEVEL", "debug, info, warning or error"),
    ("--log-file", "FILE", "write the worker's log to FILE"),
)
_CHOICES = {
    "--adapter": ("chat", "json", "xml"),
    "--log-level": ("debug", "info", "warning", "error"),
}


class Usage(Exception):
    """The command line is wrong; the text says how, for its writer."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises :class:`Usage` and guesses what an unknown flag was meant to be."""

    def __init__(self, prog: str, description: str, *, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}\nSee: {self.prog} --help")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``, flags and positional arguments in any order.

        Raises Usage for anything unknown; ``--help`` raises SystemExit(0) as argparse does.
        """
        namespace, unknown = self.parse_known_intermixed_args(list(argv))
        for word in unknown:
            self._unknown(word)
        return namespace

    def _unknown(self, word: str) -> NoReturn:
        known = [flag for action in self._actions for flag in action.option_strings]
        hint = did_you_mean(word.split("=", 1)[0], known)
        raise Usage(f"Unknown argument {word!r}.{hint}\nSee: {self.prog} --help")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the closest of ``known``, or nothing when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def add_worker_flags(parser: Parser) -> None:
    """Give ``parser`` the flags that :func:`worker_flags` hands on."""
    group = parser.add_argument_group("the worker")
    for flag, metavar, text in _WORKER_FLAGS:
        if flag == "--commands":
            group.add_argument(flag, metavar=metavar, help=text, action="append", default=[])
        else:
            group.add_argument(flag, metavar=metavar, help=text, choices=_CHOICES.get(flag))


def worker_flags(namespace: argparse.Namespace) -> list[str]:
    """The command line of ``serve`` that gives its worker what ``namespace`` asks for."""
    flags: list[str] = []
    for flag, _, _ in _WORKER_FLAGS:
        value = getattr(namespace, flag[2:].replace("-", "_"))
        values = value if isinstance(value, list) else [value]
        for one in values:
            if one is not None:
                flags += [flag, str(one)]
    return flags


def complain(text: str) -> None:
    """Say ``text`` on stderr."""
    print(text, file=sys.stderr, flush=True)
