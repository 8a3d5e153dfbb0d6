"""The flags of ``serve`` that other subcommands take too and hand on to the worker they start."""

from __future__ import annotations

import argparse
import shlex

from bridge.cli.flags import Parser, told
from bridge.cli.serve import CHOICES, FLAGS, REPEATED, check_mcp_names, flag_of

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
    "commands",
    "tools",
    "mcp",
)


def add_worker_flags(parser: Parser) -> None:
    """Give ``parser`` the flags that :func:`worker_flags` hands on."""
    group = parser.add_argument_group("the worker")
    for name, metavar, kind, text in FLAGS:
        if name not in _PASSED:
            continue
        if metavar is None:
            group.add_argument(flag_of(name), action="store_true", help=text)
        elif name in REPEATED:
            group.add_argument(flag_of(name), metavar=metavar, type=told(kind), action="append", help=text)
        else:
            group.add_argument(
                flag_of(name), metavar=metavar, type=told(kind), choices=CHOICES.get(name), help=text
            )


def worker_flags(namespace: argparse.Namespace) -> list[str]:
    """The words after ``serve`` that give a worker what ``namespace`` asks for.

    :raises Usage: when two MCP servers have one name.
    """
    check_mcp_names(namespace.mcp or ())
    words: list[str] = []
    for name in _PASSED:
        value = getattr(namespace, name)
        if value is True:
            words.append(flag_of(name))
        elif name == "mcp":
            words += [f"--mcp={server}={shlex.join(argv)}" for server, argv in value or ()]
        elif value not in (None, False):
            values = value if name in REPEATED else [value]
            words += [f"{flag_of(name)}={one}" for one in values]
    return words
