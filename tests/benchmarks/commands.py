"""Handlers for the benchmarks, loaded into the worker with ``--commands tests.benchmarks.commands``."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import msgspec

import bridge
from bridge.context import Context
from tests.benchmarks.payloads import TEXTS


class StreamArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``count`` chunks (-1: without end) of a text; ``yielding``: the loop gets a turn after each."""

    count: int
    text: str = "80b"
    yielding: bool = False


class PacedArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``count`` chunks, one every ``period_s``: on a timetable, or after a sleep of that length.

    ``due``: each tells when it was due, in nanoseconds of the monotonic clock.
    """

    count: int
    period_s: float
    timetable: bool
    text: str = "80b"
    due: bool = False


class EngineArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``scripted``: the engine of the product; ``instant``: the benchmarks' own, after ``latency_s``."""

    engine: Literal["scripted", "instant"]
    latency_s: float = 0.0


@bridge.command("bench_stream")
async def bench_stream(args: StreamArgs) -> AsyncIterator[dict[str, Any]]:
    """A stream as fast as it goes."""
    text = TEXTS[args.text]
    if args.yielding:
        for _ in range(args.count):
            yield {"type": "chunk", "text": text}
            await asyncio.sleep(0)
    else:
        for _ in itertools.count() if args.count < 0 else range(args.count):
            yield {"type": "chunk", "text": text}


@bridge.command("bench_stream_sync")
def bench_stream_sync(args: StreamArgs) -> Iterator[dict[str, Any]]:
    """The same in a thread."""
    text = TEXTS[args.text]
    for _ in itertools.count() if args.count < 0 else range(args.count):
        yield {"type": "chunk", "text": text}


@bridge.command("bench_answer")
async def bench_answer() -> dict[str, Any]:
    """One short answer."""
    return {"text": TEXTS["80b"]}


@bridge.command("bench_paced")
async def bench_paced(args: PacedArgs) -> AsyncIterator[dict[str, Any]]:
    """A stream that waits before each chunk."""
    text = TEXTS[args.text]
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(args.count):
        due += args.period_s
        await asyncio.sleep(max(0.0, due - loop.time()) if args.timetable else args.period_s)
        yield {"type": "chunk", "text": text, **({"due": int(due * 1e9)} if args.due else {})}


@bridge.command("bench_pid")
async def bench_pid(args: dict[str, Any]) -> dict[str, Any]:
    """Which worker this is."""
    return {"pid": os.getpid()}


@bridge.command("bench_engine", state="engine")
async def bench_engine(args: EngineArgs, ctx: Context) -> None:
    """Choose what answers for the LM ``scripted`` from now on. Imports DSPy.

    The instant engine takes the scripted one's place because it is the only way an LM with an engine of
    one's own comes into a worker; all around the engine stays as it is.
    """
    from bridge.dspy_runtime import loader, scripted
    from tests.benchmarks.engine import AsyncInstantEngine

    if not _original:
        _original.append(scripted.AsyncScriptedEngine)
    await loader.runtime(ctx.options)
    instant = functools.partial(AsyncInstantEngine, latency_s=args.latency_s)
    vars(scripted)["AsyncScriptedEngine"] = instant if args.engine == "instant" else _original[0]


_original: list[Any] = []
