"""``ping``, ``describe`` and ``stats``: a worker telling about itself."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec

from bridge._version import __version__
from bridge.context import Context
from bridge.registry import Command, command
from bridge.tool_modules import tool_names
from bridge.wire.messages import PROTOCOL_VERSION, FinalChunk

DISTRIBUTIONS = ("dspy", "orjson", "msgspec")


class PingArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``data`` comes back as it was."""

    data: Any = msgspec.UNSET


class Pong(FinalChunk, tag="pong"):
    """The answer; ``time`` is the worker's clock in seconds since 1970."""

    time: float
    data: Any = msgspec.UNSET


@command("ping", inline=True)
def ping(args: PingArgs) -> Pong:
    """Answer at once, beside whatever else is running."""
    return Pong(time=time.time(), data=args.data)


class DescribeArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``name`` narrows the answer to one command."""

    name: str | None = None


@command("describe")
async def describe(args: DescribeArgs, ctx: Context) -> dict[str, Any]:
    """Tell the commands with their args and chunks as JSON Schema, the limits and the versions.

    ``tools``: names of those the worker was started with, ``server__*`` for all of an MCP server's.
    """
    registry = ctx.worker.registry
    chosen = list(registry) if args.name is None else [registry.get(args.name)]
    return {
        "protocol": PROTOCOL_VERSION,
        "streaming": True,
        "versions": versions(),
        "limits": ctx.options.limits(),
        "commands": {item.name: describe_command(item) for item in chosen},
        "tools": tool_names(ctx.options),
    }


def describe_command(item: Command) -> dict[str, Any]:
    """One command's documentation and schemas."""
    return {
        "doc": item.doc,
        "kind": item.kind.value,
        "args": _schema(item.args_type),
        "chunks": [_schema(kind) for kind in item.chunk_types],
    }


def versions() -> dict[str, str]:
    """Versions of the worker, of Python and of what it is built on, without importing them."""
    from importlib import metadata  # 20 ms that no start needs

    found = {"bridge": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _schema(kind: type) -> dict[str, Any]:
    """A self-contained JSON Schema; ``{"type": "object"}`` for what has none of its own."""
    if kind is dict:
        return {"type": "object"}
    try:
        (schema,), components = msgspec.json.schema_components([kind], schema_hook=lambda _: {})
    except (TypeError, NotImplementedError):  # msgspec has no schema for some types that it can decode
        return {"type": "object"}
    reference = str(schema.get("$ref", "")).rpartition("/")[2]
    body = dict(components.pop(reference, schema))
    return {**body, "$defs": components} if components else body


@command("stats")
async def stats(args: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Tell the worker's counters: requests, chunks, bytes, errors, memory, and its language models."""
    from bridge import tool_threads
    from bridge.dspy_runtime import loader

    told = ctx.worker.stats()
    told["abandoned_threads"] += tool_threads.abandoned()
    return {**told, "dspy": loader.snapshot()}
