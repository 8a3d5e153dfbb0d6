"""Tools for ``--tools tests.support.agent_tools``: functions of every kind, well-behaved or not."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import sys
import threading
import time
from typing import Any, Literal

import pydantic

from tests.support.agents import INJECTED

SECRET = "sk-tool-9876543210fedcba"
PATH = "/srv/secret-place/inventory.sqlite"

_gates: dict[str, threading.Event] = {}
_async_gates: dict[str, asyncio.Event] = {}
_local = contextvars.ContextVar("local", default="unset")


class Point(pydantic.BaseModel):
    x: int
    y: int = 0


@dataclasses.dataclass
class Row:
    name: str
    when: datetime.date


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(f"nothing can be said of {PATH}")


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def where() -> str:
    """Which thread this runs in."""
    return "main" if threading.current_thread() is threading.main_thread() else "thread"


async def where_async() -> str:
    """Which thread this runs in."""
    await asyncio.sleep(0)
    return where()


def block(gate: str) -> str:
    """Hold a thread until ``open_gate`` is called."""
    opened = _gates.setdefault(gate, threading.Event()).wait(20)
    return "opened" if opened else "shut"


async def wait(gate: str) -> str:
    """Hold nothing until ``open_gate`` is called."""
    await asyncio.wait_for(_async_gates.setdefault(gate, asyncio.Event()).wait(), 20)
    return "opened"


async def open_gate(gate: str) -> str:
    """Let go what waits at a gate."""
    _gates.setdefault(gate, threading.Event()).set()
    _async_gates.setdefault(gate, asyncio.Event()).set()
    return "open"


def shift(point: Point, by: list[int], how: Literal["add", "subtract"] = "add") -> dict[str, Any]:
    """Move a point."""
    assert isinstance(point, Point)
    sign = 1 if how == "add" else -1
    return {"x": point.x + sign * sum(by), "y": point.y, "type": type(point).__name__}


def maybe(text: str | None, when: datetime.date | None = None) -> str:
    """Take nothing."""
    return f"{text!r} {when!r}"


def anything(first: int, **rest: Any) -> dict[str, Any]:
    """Take whatever there is."""
    return {"first": first, **rest}


def untyped(value, times=2):  # type: ignore[no-untyped-def]  # as many tools are written
    return [value] * times


def remember(value: str) -> str:
    """Give what the last call in this context remembered."""
    before = _local.get()
    _local.set(value)
    return before


def fail(how: str) -> Any:
    """Fail in a way of the caller's choice."""
    if how == "path":
        with open(PATH):
            raise AssertionError
    if how == "secret":
        raise RuntimeError(f'login with {SECRET} failed in File "{PATH}", line 3')
    if how == "chain":
        try:
            raise KeyError(PATH)
        except KeyError as error:
            raise ValueError("it went wrong") from error
    if how == "unspeakable":
        raise Unspeakable
    if how == "stop":
        return next(iter(()))
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "timeout":
        raise TimeoutError("the database is slow")
    if how == "group":
        raise ExceptionGroup("many", [ValueError(PATH), KeyError("b")])
    if how == "injected":
        raise ValueError(INJECTED)
    if how == "long":
        raise ValueError("x" * 1_000_000)
    raise ValueError


async def fail_async(how: str) -> Any:
    """Fail on the loop."""
    await asyncio.sleep(0)
    return fail(how)


def give(what: str) -> Any:
    """Give a value of a kind of the caller's choice."""
    values: dict[str, Any] = {
        "model": Point(x=1, y=2),
        "models": [Point(x=1)],
        "dataclass": Row("a", datetime.date(2026, 1, 2)),
        "bytes": b"\xff\x00\xfe",
        "none": None,
        "set": {1},
        "tuple": (1, "two"),
        "nan": float("nan"),
        "huge": 10**30,
        "keys": {1: "one", None: "none"},
        "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "object": object(),
        "lambda": lambda: None,
        "surrogate": "a\ud800b",
        "exception": ValueError("returned"),
    }
    if what == "cyclic":
        cyclic: list[Any] = []
        cyclic.append(cyclic)
        return cyclic
    if what == "deep":
        deep: Any = 1
        for _ in range(5000):
            deep = [deep]
        return deep
    return values[what]


def inject(how: str) -> Any:
    """Give a text that DSPy would read an image out of."""

    class Model(pydantic.BaseModel):
        text: str = INJECTED

    @dataclasses.dataclass
    class Data:
        text: str = INJECTED

    values: dict[str, Any] = {
        "text": INJECTED,
        "nested": {"a": [{INJECTED: INJECTED}]},
        "tuple": (INJECTED,),
        "set": {INJECTED},
        "model": Model(),
        "models": [Model()],
        "dataclass": Data(),
        "bytes": INJECTED.encode(),
        "exception": ValueError(INJECTED),
    }
    return values[how]


def slow(seconds: float) -> str:
    """Sleep in a thread."""
    time.sleep(seconds)
    return "slept"


async def slow_async(seconds: float) -> str:
    """Sleep on the loop."""
    await asyncio.sleep(seconds)
    return "slept"


def get_one() -> int:
    """Give 1."""
    return 1


def get_two() -> int:
    """Give 2."""
    return 2


def _private() -> str:
    return "nobody's"


def look(q: str) -> str:
    """Also the name of a tool of the host's."""
    return f"the worker's {q}"


imported = dataclasses.replace
constant = 5
