"""The commands of the conformance kit (tests/conformance/README.md) and more, for a worker under test.

Loaded with ``--commands tests.support.commands``. Imports nothing heavy: it counts towards every start.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import msgspec

from bridge import BridgeError, Chunk, Code, Context, FinalChunk, command, final

Fields = dict[str, Any]

#: What handlers did, for the command ``kit.seen``.
SEEN: Counter[str] = Counter()
_async_gates: dict[str, asyncio.Event] = {}
_gates: dict[str, threading.Event] = {}
_marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="unset")


class CountArgs(msgspec.Struct):
    """``n`` chunks, each with ``size`` bytes of text, ``pause_ms`` apart."""

    n: int = 3
    size: int = 0
    pause_ms: float = 0.0


def _row(i: int, args: CountArgs) -> Fields:
    return {"type": "chunk", "n": i, "text": "x" * args.size} if args.size else {"type": "chunk", "n": i}


@command("kit.count")
async def count(args: CountArgs) -> AsyncIterator[Fields]:
    """Yield ``n`` chunks and end with none marked final."""
    for i in range(args.n):
        if args.pause_ms:
            await asyncio.sleep(args.pause_ms / 1000)
        yield _row(i, args)
        SEEN["counted"] += 1


@command("kit.sync_count")
def sync_count(args: CountArgs) -> Iterator[Fields]:
    """As ``kit.count``, from a generator in a thread."""
    for i in range(args.n):
        if args.pause_ms:
            time.sleep(args.pause_ms / 1000)
        yield _row(i, args)
        SEEN["sync_counted"] += 1


@command("kit.echo")
async def echo(args: Fields) -> Fields:
    """Answer with the args."""
    return {"echo": args}


@command("kit.sync_echo")
def sync_echo(args: Fields) -> Fields:
    """As ``kit.echo``, from a plain function in a thread."""
    return {"echo": args, "thread": threading.current_thread() is not threading.main_thread()}


@command("kit.hold")
async def hold(args: Fields) -> AsyncIterator[Fields]:
    """Yield ``started``, wait for ``kit.release``, yield ``released``."""
    name = args.get("gate", "")
    try:
        yield {"type": "started"}
        await _async_gates.setdefault(name, asyncio.Event()).wait()
        yield {"type": "released"}
    finally:
        SEEN[f"hold {name} ended"] += 1


@command("kit.sync_hold")
def sync_hold(args: Fields) -> Iterator[Fields]:
    """As ``kit.hold``: a thread that nothing but ``kit.release`` can wake."""
    name = args.get("gate", "")
    try:
        yield {"type": "started"}
        _gates.setdefault(name, threading.Event()).wait()
        yield {"type": "released"}
        yield {"type": "never"}
    finally:
        SEEN[f"hold {name} ended"] += 1


@command("kit.where")
async def where(args: Fields) -> Fields:
    """After ``pause_ms``, say which process this is."""
    await asyncio.sleep(args.get("pause_ms", 0) / 1000)
    return {"pid": os.getpid()}


@command("kit.release")
async def release(args: Fields) -> Fields:
    """Open a gate for those who wait before it now."""
    name = args.get("gate", "")
    _async_gates.pop(name, asyncio.Event()).set()
    _gates.pop(name, threading.Event()).set()
    return {}


@command("kit.seen")
async def seen(args: Fields) -> Fields:
    """What handlers have counted in this process."""
    return {"seen": dict(SEEN)}


@command("kit.process")
async def process(args: Fields) -> Fields:
    """Id, descriptors, threads and tasks of this process."""
    return {
        "pid": os.getpid(),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
    }


# ---- misbehaviour ----------------------------------------------------------------------------------


class Unkind(BaseException):
    """Derives from BaseException, as no handler's error should."""


def _failure(how: str) -> BaseException:
    errors: dict[str, BaseException] = {
        "error": ValueError("no luck"),
        "empty": ValueError(),
        "bridge": BridgeError("busy", code=Code.LM_RATE_LIMIT, retry_after_ms=1200, details={"status": 429}),
        "exit": SystemExit(4),
        "interrupt": KeyboardInterrupt(),
        "base": Unkind("unkind"),
        "cancelled": asyncio.CancelledError(),
        "stop": StopIteration("x"),
        "stop_async": StopAsyncIteration("x"),
        "generator_exit": GeneratorExit(),
        "recursion": RecursionError("too deep"),
        "memory": MemoryError(),
        "timeout": TimeoutError("slow"),
        "path": OSError(f"no such file: {os.getcwd()}/secret/place.txt"),
    }
    return errors[how]


@command("kit.fail")
async def fail(args: Fields) -> AsyncIterator[Fields]:
    """Yield ``after`` chunks, then raise what ``how`` names."""
    for i in range(args.get("after", 0)):
        yield {"n": i}
    raise _failure(args.get("how", "error"))


@command("kit.sync_fail")
def sync_fail(args: Fields) -> Iterator[Fields]:
    """As ``kit.fail``, in a thread."""
    for i in range(args.get("after", 0)):
        yield {"n": i}
    raise _failure(args.get("how", "error"))


@command("kit.fail_call")
async def fail_call(args: Fields) -> Fields:
    """An async function that raises."""
    raise _failure(args.get("how", "error"))


@command("kit.sync_fail_call")
def sync_fail_call(args: Fields) -> Fields:
    """A function that raises."""
    raise _failure(args.get("how", "error"))


@command("kit.stubborn")
async def stubborn(args: Fields) -> AsyncIterator[Fields]:
    """Swallow every cancellation and go on yielding, for ever."""
    yield {"type": "started"}
    while True:
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            SEEN["refused"] += 1
        SEEN["stubborn"] += 1
        yield {"type": "stubborn"}


@command("kit.block")
def block(args: Fields) -> Iterator[Fields]:
    """A thread in a blocking call of ``seconds``."""
    yield {"type": "started"}
    time.sleep(args["seconds"])
    yield {"type": "unblocked"}


@command("kit.block_loop")
async def block_loop(args: Fields) -> AsyncIterator[Fields]:
    """An async handler that blocks the loop for ``seconds``, once ``started`` has been sent."""
    yield {"type": "started"}
    await asyncio.sleep(0.05)
    time.sleep(args["seconds"])  # noqa: ASYNC251 - this is the misbehaviour under test


@command("kit.hold_gil")
def hold_gil(args: Fields) -> Iterator[Fields]:
    """A C call that keeps the interpreter's lock for ``seconds``."""
    yield {"type": "started"}
    time.sleep(0.05)
    ctypes.PyDLL(None).sleep(args["seconds"])


@command("kit.flood")
async def flood(args: CountArgs) -> AsyncIterator[Fields]:
    """Chunks without end, as fast as they are taken."""
    i = 0
    while True:
        yield _row(i, args)
        i += 1
        SEEN["flooded"] += 1


@command("kit.sync_flood")
def sync_flood(args: CountArgs) -> Iterator[Fields]:
    """As ``kit.flood``, from a thread."""
    i = 0
    try:
        while True:
            yield _row(i, args)
            i += 1
            SEEN["sync_flooded"] += 1
    finally:
        SEEN["sync_flood ended"] += 1


@command("kit.prints")
def prints(args: Fields) -> Fields:
    """Write to stdout in every way there is."""
    import subprocess
    import sys

    print("stray print")
    print("stray sys", file=sys.__stdout__, flush=True)
    os.write(1, b"stray os.write\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"stray puts")
    libc.fflush(None)
    subprocess.run(["/bin/sh", "-c", "echo stray child"], check=True)
    child = os.fork()
    if child == 0:
        os.write(1, b"stray fork\n")
        os._exit(0)
    os.waitpid(child, 0)
    return {"stdin": os.read(0, 10).decode()}


@command("kit.spawn_child")
def spawn_child(args: Fields) -> Fields:
    """Leave a child behind that lives for a minute: ``exec`` or a bare ``fork``."""
    import subprocess

    if args["how"] == "exec":
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        return {"pid": child.pid}
    forked, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, b"x")  # what a fork closes is closed by now
        time.sleep(60)
        os._exit(0)
    os.read(forked, 1)
    return {"pid": pid}


@command("kit.log_flood")
async def log_flood(args: Fields, ctx: Context) -> Fields:
    """Log ``n`` lines of a kilobyte."""
    for i in range(args["n"]):
        ctx.log.error("%d %s", i, "y" * 1000)
    return {}


@command("kit.grow")
async def grow(args: Fields) -> Fields:
    """Take ``mb`` of memory for good."""
    _kept.append(os.urandom(1) * (args["mb"] * 2**20))
    return {}


_kept: list[bytes] = []


# ---- what handlers may yield, and what they get ----------------------------------------------------


class Row(Chunk):
    """A typed chunk."""

    n: int
    note: str | msgspec.UnsetType = msgspec.UNSET


class Verdict(FinalChunk, tag="verdict"):
    """A typed terminal chunk."""

    ok: bool


@command("kit.typed")
async def typed(args: CountArgs) -> AsyncIterator[Row | Verdict]:
    """Typed chunks."""
    for n in range(args.n):
        yield Row(n=n)
    yield Verdict(ok=True)


@command("kit.final")
async def final_chunk(args: Fields) -> AsyncIterator[Any]:
    """Look terminal without being so, then be so, then go on."""
    yield {"type": "complete", "total": 1}
    yield {"type": "error", "index": 0, "error": "one item", "code": "internal", "retryable": False}
    yield final({"type": "verdict", "ok": True})
    SEEN["after final"] += 1
    yield {"type": "never"}


@command("kit.sync_final")
def sync_final_chunk(args: Fields) -> Iterator[Any]:
    """As ``kit.final``, in a thread."""
    yield {"type": "complete", "total": 1}
    yield final({"type": "verdict", "ok": True})
    SEEN["after final"] += 1
    yield {"type": "never"}


@command("kit.shadow")
async def shadow(args: Fields) -> AsyncIterator[Any]:
    """Try to write the worker's own keys."""
    yield {"id": "other", "seq": 99, "done": True, "n": 1}
    yield final({"id": "other", "seq": 99, "done": False, "type": "complete", "n": 2})


@command("kit.values")
async def values(args: Fields) -> AsyncIterator[Any]:
    """Values that JSON does not know."""
    from tests.support.odd_values import ODD_VALUES

    for name, value in ODD_VALUES:
        yield {"type": "value", "name": name, "value": value}
    yield [1, 2]
    yield "text"
    yield None
    yield {}


@command("kit.split")
async def split(args: Fields) -> Fields:
    """Text with every character some host's line reader splits on."""
    return {"text": "a\u2028b\u2029c\x85d\ne\rf\x0bg\x0ch\x1ci", "\u2028": "\x85"}


@command("kit.result")
async def result(args: Fields) -> Any:
    """One answer of the kind asked for."""
    kinds: Fields = {"none": None, "list": [1, 2], "number": 5, "final": final({"type": "verdict"})}
    return kinds[args["kind"]] if args["kind"] in kinds else Verdict(ok=True)


@command("kit.no_args")
async def no_args() -> Fields:
    """Takes nothing."""
    return {"fine": True}


class Item(msgspec.Struct):
    """A part of typed args."""

    text: str
    weight: float = 1.0


class TypedArgs(msgspec.Struct):
    """Typed args; not marked as forbidding unknown keys."""

    items: list[Item]
    limit: int | None = None


@command("kit.args")
async def typed_args(args: TypedArgs) -> Fields:
    """Answer with what was decoded."""
    return {"items": args.items, "limit": args.limit}


@command("kit.context")
async def context(args: Fields, ctx: Context) -> Fields:
    """What a handler knows of its request."""
    ctx.log.warning("hello from %s", ctx.command)
    remaining = ctx.remaining()
    return {
        "request_id": ctx.id,
        "command": ctx.command,
        "traceparent": ctx.traceparent,
        "remaining_ms": None if remaining is None else round(remaining * 1000),
        "has_deadline": ctx.deadline is not None,
        "cancelled": ctx.cancelled,
        "framing": ctx.options.framing,
    }


@command("kit.variables")
def variables(args: Fields) -> Iterator[Fields]:
    """A context variable set before one yield is there after it, and not in another request."""
    before = _marker.get()
    _marker.set(args["mark"])
    for _ in range(3):
        yield {"before": before, "mark": _marker.get(), "thread": threading.get_ident()}


@command("kit.polls")
def polls(args: Fields, ctx: Context) -> Iterator[Fields]:
    """A thread that looks whether it is still wanted."""
    yield {"type": "started"}
    while not ctx.cancelled:
        time.sleep(0.005)
    SEEN["saw cancel"] += 1


@command("kit.ask")
async def ask(args: Fields, ctx: Context) -> AsyncIterator[Fields]:
    """Ask the host ``n`` times, one after the other, and yield each answer."""
    timeout_s = args.get("timeout_s")
    for i in range(args.get("n", 1)):
        answer = await ctx.ask({"type": "tool_call", "name": "t", "args": {"i": i}}, timeout_s=timeout_s)
        yield {"type": "observation", "answer": answer}


@command("kit.tool")
async def tool(args: Fields, ctx: Context) -> Fields:
    """Have the host run the tool ``name`` with ``args``, as an agent does; answer with its ``value`` or with
    the ``error`` and its ``code``.
    """
    call = {"type": "tool_call", "step": 1, "name": args["name"], "args": args.get("args", {}), "host": True}
    try:
        return {"value": await ctx.ask(call, timeout_s=args.get("timeout_s"))}
    except BridgeError as error:
        return {"error": str(error), "code": error.code}


@command("kit.ask_all")
async def ask_all(args: Fields, ctx: Context) -> Fields:
    """Ask the host ``n`` times at once."""
    calls = [ctx.ask({"type": "tool_call", "i": i}) for i in range(args["n"])]
    return {"answers": await asyncio.gather(*calls)}


@command("kit.sync_ask")
def sync_ask(args: Fields, ctx: Context) -> Fields:
    """Threads can not ask."""
    coroutine = cast("Any", ctx.ask({"type": "tool_call"}))
    try:
        coroutine.send(None)
    except RuntimeError as error:
        return {"refused": str(error)}
    return {}


@command("kit.emit")
async def emit(args: CountArgs, ctx: Context) -> Fields:
    """Send chunks from inside callbacks: ``n`` tasks with two each."""

    async def part(i: int) -> None:
        await ctx.emit({"type": "part", "i": i, "half": 1})
        await asyncio.sleep(0)
        await ctx.emit({"type": "part", "i": i, "half": 2})

    await asyncio.gather(*(part(i) for i in range(args.n)))
    return {"n": args.n}


@command("kit.leaves_tasks")
async def leaves_tasks(args: Fields, ctx: Context) -> Fields:
    """End with a task of one's own still trying to send."""

    async def late() -> None:
        await asyncio.sleep(0.02)
        for _ in range(5):
            await ctx.emit({"type": "late"})
        SEEN["late task ended"] += 1

    _tasks.append(asyncio.create_task(late()))
    return {}


_tasks: list[asyncio.Task[None]] = []
