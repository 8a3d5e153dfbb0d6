"""Turning any value into what JSON can hold: the one slow path behind the fast encoder.

The fast encoder (orjson) knows dicts with string keys, lists, tuples, strings, 64-bit integers,
floats, booleans, None, dates, UUIDs, enums and numpy arrays. ``convert`` covers one value it does not
know; ``plain`` rebuilds a whole payload when the fast encoder gave up on it.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

MAX_REPR_CHARS = 1000
#: Python prints integers of up to 4,300 digits (this many bits) unless told otherwise; decimal has no
#: such limit and is fast, so longer ones travel as Decimals, which nothing else does here.
_PRINTABLE_BITS = 14_000


def repr_marker(value: object) -> dict[str, str]:
    """``{"__repr__": …}`` for a value that no rule covers; its type's name where ``repr`` fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        text = type(value).__name__
    return {"__repr__": clean(text[:MAX_REPR_CHARS])}


def type_marker(value: object) -> dict[str, str]:
    """What stands for a value that is cyclic or too deep."""
    return {"__repr__": clean(type(value).__name__)}


def clean(text: str) -> str:
    """``text`` as a plain ``str`` with lone surrogates replaced by U+FFFD."""
    text = str.__str__(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def convert(value: Any) -> Any:
    """One step from a value the fast encoder does not know to one it may know.

    Used as the encoder's ``default`` hook. Never raises: what no rule covers, or fails while it is
    converted, becomes ``{"__repr__": …}``.
    """
    try:
        for kind, step in _STEPS:
            if isinstance(value, kind):
                return step(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _duck(value)
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        return repr_marker(value)


def _duck(value: Any) -> Any:
    """Values of libraries that are not imported here, known by what they can do."""
    cls = type(value)
    if callable(getattr(cls, "model_dump", None)):  # pydantic, dspy's media types
        return _dump_model(value)
    if callable(getattr(cls, "toDict", None)) and callable(getattr(cls, "items", None)):  # dspy.Example
        return dict(value.items())
    module = cls.__module__.partition(".")[0]
    if module == "uuid":  # importing it costs 3 ms of every start
        return str(value)
    if module == "numpy":
        return value.tolist() if hasattr(value, "tolist") else repr_marker(value)
    if hasattr(cls, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in cls.__attrs_attrs__}
    return repr_marker(value)


def _dump_model(value: Any) -> Any:
    # model_dump would run a custom serializer (dspy's media types emit marker strings); the fields
    # themselves are what a host wants. A root model is its root.
    fields = type(value).model_fields
    if set(fields) == {"root"}:
        return value.root
    extra = getattr(value, "model_extra", None) or {}
    return {**{name: getattr(value, name) for name in fields}, **extra}


def struct_fields(value: msgspec.Struct) -> dict[str, Any]:
    """A Struct's tag and fields under their encoded names, absent ones (UNSET) left out."""
    fixed, names = struct_plan(type(value))
    fields = dict(fixed)
    for name, encoded in names:
        item = getattr(value, name)
        if item is not msgspec.UNSET:
            fields[encoded] = item
    return fields


@functools.cache
def struct_plan(kind: type[msgspec.Struct]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The tag field, and the fields' names in Python and in JSON."""
    config = kind.__struct_config__
    fixed = {} if config.tag_field is None else {config.tag_field: config.tag}
    return fixed, list(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))


_STEPS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (msgspec.Struct, struct_fields),
    (msgspec.Raw, lambda raw: msgspec.json.decode(raw)),
    (Enum, lambda member: member.value),
    (Decimal, str),
    (timedelta, lambda delta: msgspec.to_builtins(delta)),
    (datetime, lambda moment: moment.isoformat()),
    ((date, time), lambda moment: moment.isoformat()),
    ((bytes, bytearray), lambda data: base64.b64encode(data).decode()),
    (memoryview, lambda view: base64.b64encode(view).decode()),
    (Mapping, dict),
    ((Set, tuple, deque, KeysView, ValuesView, ItemsView), list),
)


def plain(value: Any, depth: int) -> Any:
    """``value`` rebuilt from dicts, lists, strings, numbers, booleans and None alone.

    (A Decimal in the result is an integer that Python would refuse to print.)

    ``depth`` is how many levels of nesting are left, ``value``'s own included; deeper containers and
    cyclic ones become ``{"__repr__": "<type name>"}``. Integers stay exact whatever their size.
    """
    return _Walk(depth).value(value)


_SCALARS = frozenset((str, int, float))
_CONTAINERS = (dict, list, tuple, set, frozenset)


class _Walk:
    """One pass over a payload; a single frame of Python's stack for each level of nesting."""

    __slots__ = ("_left", "_open")

    def __init__(self, depth: int) -> None:
        self._left = depth
        self._open: set[int] = set()

    def value(self, value: Any) -> Any:
        if value is None or value is True or value is False:
            return value
        if type(value) in _SCALARS:
            return _scalar(value)
        if id(value) in self._open:
            return type_marker(value)
        self._open.add(id(value))
        self._left -= 1
        try:
            return self._rebuild(value)
        except Exception:  # noqa: BLE001 - whatever fails, the chunk is sent
            return type_marker(value)
        finally:
            self._left += 1
            self._open.discard(id(value))

    def _rebuild(self, value: Any) -> Any:
        if isinstance(value, (str, int, float)) and not isinstance(value, Enum):
            return _scalar(value)
        if not isinstance(value, _CONTAINERS):
            return self._converted(value)
        if self._left < 0:
            return type_marker(value)
        if isinstance(value, dict):
            rebuilt = {}
            for key, item in value.items():
                rebuilt[key_text(key)] = self.value(item)
            return rebuilt
        items = []
        for item in value:
            items.append(self.value(item))  # noqa: PERF401 - a comprehension costs a stack frame a level
        return items

    def _converted(self, value: Any) -> Any:
        converted = convert(value)
        if self._left < 0 and isinstance(converted, _CONTAINERS):
            return type_marker(value)
        self._left += 1  # a conversion is no level of its own
        try:
            return self.value(converted)
        finally:
            self._left -= 1


def _scalar(value: str | float) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= _PRINTABLE_BITS else Decimal(number)
    return float(value) if math.isfinite(value) else None


def key_text(key: Any) -> str:
    """The text a mapping's key becomes: numbers, booleans and null their JSON text, others ``str()``."""
    if isinstance(key, str) and not isinstance(key, Enum):
        return clean(key)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int) and not isinstance(key, Enum):
        return int.__repr__(key)
    if isinstance(key, float):
        return float.__repr__(key) if math.isfinite(key) else "null"
    try:
        return clean(str(key))
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        return clean(type(key).__name__)
