"""``describe``: what commands a worker has, asked of a worker."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bridge.cli.flags import FAILED, OK, Parser, complain, did_you_mean
from bridge.cli.process import WorkerProcess
from bridge.cli.readable import BAD_ENDS
from bridge.cli.schema import Field, chunk_name, definitions_of, description_of, fields_of
from bridge.cli.usage import Usage
from bridge.cli.worker_flags import add_worker_flags, worker_flags

_WIDTH = 92


def describe(argv: Sequence[str]) -> int:
    """Run ``describe`` with the words after it; gives the exit code."""
    parser = Parser("dspy-bridge describe", "List the worker's commands, or explain one.")
    parser.add_argument("command", nargs="?", help="explain this one")
    parser.add_argument("--json", action="store_true", help="as JSON, args and chunks as JSON Schema")
    add_worker_flags(parser)
    options = parser.parse(argv)
    description = ask_worker(worker_flags(options))
    if description.get("type") in BAD_ENDS:
        complain(f"dspy-bridge: {description.get('error')}")
        return FAILED
    if options.command:
        description["commands"] = {options.command: _pick(description["commands"], options.command)}
    if options.json:
        wire = ("id", "seq", "type", "done")
        told = {key: value for key, value in description.items() if key not in wire}
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return OK
    for line in _one(options.command, description) if options.command else _list(description):
        print(line)
    return OK


def ask_worker(flags: Sequence[str]) -> dict[str, Any]:
    """What a worker started with ``flags`` answers to ``describe``. Raises WorkerDied."""
    with WorkerProcess(flags, lambda text: print(text, file=sys.stderr)) as worker:
        return worker.ask("describe")


def _pick(commands: Mapping[str, Any], name: str) -> Any:
    if name not in commands:
        raise Usage(f"There is no command {name!r}.{did_you_mean(name, commands)}\nSee: dspy-bridge describe")
    return commands[name]


def _list(description: Mapping[str, Any]) -> Iterator[str]:
    versions = description["versions"]
    yield ", ".join(f"{name} {version}" for name, version in versions.items())
    yield ""
    width = max(map(len, description["commands"]))
    for name, command in description["commands"].items():
        yield f"  {name:{width}}  {first_line(command['doc'])}".rstrip()
    yield ""
    yield "dspy-bridge describe COMMAND explains one."


def first_line(doc: str) -> str:
    """The first line of a docstring."""
    return plain(doc).split("\n", 1)[0]


def plain(doc: str) -> str:
    """A docstring with Markdown's single backticks and no roles."""
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", doc.strip().replace("``", "`"))


def _one(name: str, description: Mapping[str, Any]) -> Iterator[str]:
    command = description["commands"][name]
    yield name
    yield from (f"  {line}".rstrip() for line in plain(command["doc"]).splitlines())
    yield ""
    if about := plain(description_of(command["args"])):
        yield from (f"  {line}".rstrip() for line in (*about.splitlines(), ""))
    yield from _section("args", fields_of(command["args"]))
    for schema in command["chunks"]:
        fields = [field for field in fields_of(schema) if field.name != "type"]
        yield from _section(f"chunk {chunk_name(schema)}", fields)
    for name, text, fields in definitions_of([command["args"], *command["chunks"]]):
        yield from _section(name, fields, plain(text))


def _section(title: str, fields: Sequence[Field], about: str = "") -> Iterator[str]:
    yield f"{title}:" if fields else f"{title}: nothing further"
    yield from (f"  {line}".rstrip() for line in about.splitlines())
    for field in fields:
        remark = "required" if field.required else f"default {field.default}" if field.default else "optional"
        yield f"  {field.name}: {field.type} ({remark})"
        if field.text:
            yield textwrap.fill(
                plain(field.text), _WIDTH, initial_indent="      ", subsequent_indent="      "
            )
    yield ""
