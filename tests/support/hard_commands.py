"""Commands whose handlers, args or chunks misbehave in ways that only the worker can make good."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from bridge import command

_stop = threading.Event()


class Exploding(msgspec.Struct):
    """Args whose own code fails with something msgspec does not expect."""

    def __post_init__(self) -> None:
        raise KeyError("explodes")


@command("hard.exploding")
def exploding(args: Exploding) -> dict[str, Any]:
    """Never called."""
    return {}


@command("hard.big")
async def big(args: dict[str, Any]) -> dict[str, Any]:
    """One answer of 100 KB."""
    return {"text": "x" * 100_000}


@command("hard.flood")
def flood(args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Chunks of ``size`` bytes until the request ends."""
    text = "x" * args["size"]
    while True:
        yield {"text": text}


class SlowRepr:
    """What takes long to look at."""

    def __repr__(self) -> str:
        _stop.wait(8)
        return "slow"


@command("hard.slow_repr")
def slow_repr(args: dict[str, Any]) -> Iterator[Any]:
    """A chunk, then one that takes eight seconds to encode unless ``hard.stop`` is called."""
    yield {"n": 1}
    yield {"value": SlowRepr()}


@command("hard.stop")
async def stop(args: dict[str, Any]) -> dict[str, Any]:
    """End what waits."""
    _stop.set()
    return {}


@command("hard.clean_up")
async def clean_up(args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Wait, and write the file ``path`` when ended."""
    try:
        yield {"n": 1}
        await asyncio.Event().wait()
    finally:
        with open(args["path"], "w") as file:  # noqa: ASYNC230 - a byte, at the end
            file.write(str(time.time()))


@command("hard.secret")
async def secret(args: dict[str, Any]) -> dict[str, Any]:
    """Fail with what the environment holds."""
    raise RuntimeError(f"the key is {os.environ['ACME_API_KEY']}")
