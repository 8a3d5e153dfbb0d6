"""The flags of ``serve`` that other subcommands take too and hand on to the worker they start."""

from __future__ import annotations

import argparse

from bridge.cli.flags import Parser, told
from bridge.cli.serve import CHOICES, COMMANDS_HELP, FLAGS, flag_of, module_name

_PASSED = (
    "model",
    "api_base",
    "adapter",
    "script",
    "script_tokens_per_s",
    "cache_dir",
    "log_level",
    "log_file",
    "debug",
)


def add_worker_flags(parser: Parser) -> None:
    """Give ``parser`` the flags that :func:`worker_flags` hands on."""
    group = parser.add_argument_group("the worker")
    for name, metavar, kind, text in FLAGS:
        if name not in _PASSED:
            continue
        if metavar is None:
            group.add_argument(flag_of(name), action="store_true", help=text)
        else:
            group.add_argument(
                flag_of(name), metavar=metavar, type=told(kind), choices=CHOICES.get(name), help=text
            )
    group.add_argument(
        "--commands",
        metavar="MODULE",
        type=told(module_name),
        action="append",
        help=COMMANDS_HELP,
    )


def worker_flags(namespace: argparse.Namespace) -> list[str]:
    """The words after ``serve`` that give a worker what ``namespace`` asks for."""
    words: list[str] = []
    for name in _PASSED:
        value = getattr(namespace, name)
        if value is True:
            words.append(flag_of(name))
        elif value not in (None, False):
            words.append(f"{flag_of(name)}={value}")
    return words + [f"--commands={module}" for module in namespace.commands or ()]
