"""Argument parsing that is kind to a person who mistyped, and the exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from bridge.cli.usage import Usage, WrongValue

#: Exit codes of every subcommand but ``serve``.
OK, FAILED, USAGE, WORKER_DIED = 0, 1, 2, 3
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells have it


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


def told(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """``kind`` as a ``type`` of argparse that says what it says of a wrong value."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except WrongValue as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the closest of ``known``, or nothing when none is close."""
    import difflib  # only for who mistyped: it counts towards every worker's start

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def complain(text: str) -> None:
    """Say ``text`` on stderr."""
    print(text, file=sys.stderr, flush=True)
