"""Commands for the tests of the command line; loaded by workers with ``--commands cli_commands``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import bridge


@bridge.command("ticks")
async def ticks(args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Tick ``n`` times and then wait for ever."""
    for tick in range(args.get("n", 1)):
        yield {"type": "tick", "tick": tick}
    await asyncio.Event().wait()


@bridge.command("flood")
async def flood(args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Never end."""
    while True:
        yield {"type": "drop", "text": "x" * 80}
        await asyncio.sleep(0)


@bridge.command("die")
async def die(args: dict[str, Any]) -> None:
    """Take the process down, as a crash in C code would."""
    os._exit(9)


@bridge.command("tokens")
async def tokens(args: dict[str, Any]) -> AsyncIterator[Any]:
    """Speak in pieces."""
    for delta in ("Par", "is \x1b[31m", "[bold]"):
        yield {"type": "token", "field": "answer", "delta": delta}
    yield bridge.final({"type": "prediction", "output": {"answer": "Paris"}})


@bridge.command("stubborn")
def stubborn(args: dict[str, Any]) -> None:
    """Hold the interpreter's lock for ever: not even a cancel is answered."""
    print("stubborn", flush=True)
    import re

    re.match(r"(a+)+$", "a" * 60 + "b")
