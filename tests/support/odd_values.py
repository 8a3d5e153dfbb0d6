"""Values that a handler may yield and JSON does not know, for ``kit.values`` and its test."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import msgspec
import pydantic


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


class Model(pydantic.BaseModel):
    name: str
    when: date
    inner: Any = None


class Record(msgspec.Struct):
    a: int
    b: Any = msgspec.UNSET


class Colour(enum.Enum):
    RED = "red"
    BOTH = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Faulty:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")


class Plain:
    def __repr__(self) -> str:
        return "<Plain thing>"


def nested(levels: int) -> Any:
    """A list ``levels`` deep."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


_cycle: dict[str, Any] = {"n": 1}
_cycle["self"] = _cycle
_ring: list[Any] = [1]
_ring.append([_ring])

ODD_VALUES: list[tuple[str, Any]] = [
    ("big", 10**40),
    ("small", -(10**40)),
    ("int64", 2**63),
    ("nan", float("nan")),
    ("inf", [float("inf"), -float("inf")]),
    ("decimal", Decimal("1.10")),
    ("datetime", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("naive", datetime(2026, 1, 2, 3, 4, 5, 600)),
    ("date", date(2026, 1, 2)),
    ("time", time(3, 4, 5)),
    ("delta", timedelta(days=1, seconds=2)),
    ("uuid", uuid.UUID(int=1)),
    ("set", {1}),
    ("frozenset", frozenset({2})),
    ("tuple", (1, (2,))),
    ("deque", deque([1, 2])),
    ("bytes", b"\x00\xff"),
    ("bytearray", bytearray(b"ab")),
    ("memoryview", memoryview(b"ab")),
    ("dataclass", Point(1, Point(2))),
    ("model", Model(name="n", when=date(2026, 1, 2), inner=Point(1))),
    ("struct", Record(a=1)),
    ("enum", [Colour.RED, Colour.BOTH, Level.LOW]),
    ("mapping", MappingProxyType({"a": OrderedDict(b=1)})),
    ("keys", {1: "a", False: "b", None: "c", 2.5: "d", (1, 2): "e", Colour.RED: "f"}),
    ("surrogate", "a\ud800b"),
    ("surrogate key", {"\udfff": 1}),
    ("path", PurePosixPath("a/b")),
    ("object", Plain()),
    ("faulty", [1, Faulty(), 2]),
    ("cycle", _cycle),
    ("ring", _ring),
    ("deep", nested(400)),
    ("very deep", nested(50_000)),
]
