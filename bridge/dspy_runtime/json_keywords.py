"""Which keywords of JSON Schema can stand together, and what bounds and formats mean for pydantic."""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
import uuid
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

import pydantic

#: The keyword, pydantic's name for it, and how DSPy words it in prompts.
BOUNDS = {
    "minimum": ("ge", "greater than or equal to"),
    "maximum": ("le", "less than or equal to"),
    "exclusiveMinimum": ("gt", "greater than"),
    "exclusiveMaximum": ("lt", "less than"),
    "multipleOf": ("multiple_of", "a multiple of the given number"),
    "minLength": ("min_length", "minimum length"),
    "maxLength": ("max_length", "maximum length"),
    "minItems": ("min_length", "minimum length"),
    "maxItems": ("max_length", "maximum length"),
}
_NUMERIC = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}
#: What each type can be described with.
OF_TYPE: dict[str, set[str]] = {
    "string": {"minLength", "maxLength", "format"},
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "boolean": set(),
    "null": set(),
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
COMBINATIONS = ("anyOf", "oneOf", "allOf")
#: Everything that says which values are right.
SHAPE = {
    "type",
    "enum",
    "const",
    "$ref",
    "nullable",
    "default",
    *COMBINATIONS,
    *set().union(*OF_TYPE.values()),
}
_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def check_together(schema: dict[str, Any]) -> None:
    """Refuse keywords that would not be enforced beside the others.

    Raises:
        ValueError: naming one.
    """
    present = set(schema) & SHAPE - {"nullable", "default"}
    kinds = schema.get("type")
    listed = kinds if isinstance(kinds, list) else [kinds]
    head = next((name for name in ("$ref", "enum", "const", *COMBINATIONS) if name in schema), None)
    if head in ("enum", "const"):
        allowed = {"enum", "const", "type"}
    elif head is not None:
        allowed = {head}
    elif "type" in schema:
        head = f"the type {' or '.join(map(str, listed))}"
        allowed = {"type"}.union(*(OF_TYPE.get(kind, set()) for kind in listed if isinstance(kind, str)))
    else:
        return  # the type is implied by what is there
    if lost := sorted(present - allowed):
        raise ValueError(f"the JSON Schema keyword {lost[0]!r} is not supported beside {head}")


def of_type(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """``schema``, of several types, as it is for one of them."""
    others = set().union(*OF_TYPE.values()) - OF_TYPE.get(kind, set())
    return {name: value for name, value in schema.items() if name not in others} | {"type": kind}


def bounded(found: Any, schema: dict[str, Any]) -> Any:
    """``found`` with the schema's bounds and format.

    Raises:
        ValueError: one makes no sense.
    """
    bounds: dict[str, Any] = {
        BOUNDS[name][0]: _bound(name, schema[name]) for name in BOUNDS if name in schema
    }
    if found is int:
        bounds = _whole(bounds)
    if bounds:
        found = Annotated[found, pydantic.Field(**bounds)]
    return _formatted(found, schema) if "format" in schema else found


def constraints(schema: dict[str, Any]) -> str:
    """The bounds and the format in words, for prompts; empty if there are none."""
    said = [f"{BOUNDS[name][1]}: {schema[name]}" for name in BOUNDS if name in schema]
    return ", ".join([*said, *([f"format: {schema['format']}"] if "format" in schema else [])])


def check_enum(values: list[Any], schema: dict[str, Any]) -> None:
    """Refuse values that are not of the type that is given beside them.

    Raises:
        ValueError: naming one.
    """
    if "type" not in schema:
        return
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if schema.get("nullable") is True:
        kinds = [*kinds, "null"]
    for value in values:
        if not any(kind in _types_of(value) for kind in kinds):
            raise ValueError(f"the enum or const value {value!r} is not of the type that stands beside it")


def _types_of(value: Any) -> tuple[str, ...]:
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean",)
    return ("string",) if isinstance(value, str) else ("integer", "number")


def _bound(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number")
    if name.endswith(("Length", "Items")):
        if value < 0 or value != int(value):
            raise ValueError(f"{name} must be a whole number from 0")
        return int(value)
    if name == "multipleOf" and value <= 0:
        raise ValueError("multipleOf must be more than 0")
    return value


def _whole(bounds: dict[str, Any]) -> dict[str, Any]:
    """The bounds of an integer: pydantic wants whole ones."""
    whole = {}
    for name, value in bounds.items():
        if name == "multiple_of" and value != int(value):
            raise ValueError("multipleOf of an integer must be whole")
        whole[name] = math.ceil(value) if name in ("ge", "lt") else math.floor(value)
    return whole


def _formatted(found: Any, schema: dict[str, Any]) -> Any:
    kind, name = schema.get("type"), schema["format"]
    if not isinstance(name, str):
        raise ValueError("format must be a text")
    if kind == "integer" and name in _RANGES:
        low, high = _RANGES[name]
        return Annotated[found, pydantic.Field(ge=low, le=high)]
    if kind == "number" and name in ("float", "double"):
        return found
    if kind != "string" or name not in _FORMATS:
        raise ValueError(f"the format {name[:80]!r} of a {kind} is not supported")
    told: dict[str, Any] = {key: schema[key] for key in ("minLength", "maxLength", "format") if key in schema}
    return Annotated[
        found, pydantic.AfterValidator(_FORMATS[name]), pydantic.WithJsonSchema({"type": "string", **told})
    ]


def _by(name: str, read: Callable[[str], Any]) -> Callable[[str], str]:
    """A validator for strings that ``read`` can read: it gives them back as they are."""

    def check(value: str) -> str:
        try:
            well = read(value) not in (None, False)
        except ValueError:
            well = False
        if not well:
            raise ValueError(f"not of the format {name}")
        return value

    return check


def _date_time(value: str) -> object:
    return len(value) > 10 and value[10] in "Tt " and datetime.datetime.fromisoformat(value)


def _date(value: str) -> object:
    return len(value) == 10 and datetime.date.fromisoformat(value)


def _time(value: str) -> object:
    return datetime.time.fromisoformat(value) is not None


def _uri(value: str) -> object:
    parts = urlsplit(value)
    return bool(parts.scheme and (parts.netloc or parts.path)) and not re.search(r"\s", value)


def _email(value: str) -> object:
    return re.fullmatch(r"[^@\s]+@[^@\s]+", value)


_FORMATS: dict[str, Callable[[str], str]] = {
    name: _by(name, read)
    for name, read in (
        ("date-time", _date_time),
        ("date", _date),
        ("time", _time),
        ("uuid", uuid.UUID),
        ("email", _email),
        ("uri", _uri),
        ("ipv4", ipaddress.IPv4Address),
        ("ipv6", ipaddress.IPv6Address),
    )
}
