"""Matching a chunk against a case's pattern."""

from __future__ import annotations

import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "$string": (str,),
    "$integer": (int,),
    "$number": (int, float),
    "$object": (dict,),
    "$array": (list,),
    "$boolean": (bool,),
}
_MISSING = object()


def mismatch(pattern: Any, value: Any, path: str = "$") -> str | None:
    """Where and how ``value`` differs from ``pattern``; None when it matches."""
    if isinstance(pattern, dict):
        return _object(pattern, value, path)
    if pattern == "$absent":
        return None if value is _MISSING else f"{path} should be absent, not {value!r}"
    if value is _MISSING:
        return f"{path} is missing"
    if isinstance(pattern, str) and (pattern == "$any" or pattern in _TYPES):
        fits = pattern == "$any" or (
            isinstance(value, _TYPES[pattern]) and (pattern == "$boolean" or value is not True)
        )
        return None if fits else f"{path} is {value!r}, not {pattern[1:]}"
    if isinstance(pattern, str) and len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
        fits = isinstance(value, str) and re.search(pattern[1:-1], value) is not None
        return None if fits else f"{path} is {value!r}, which does not match {pattern}"
    same = type(pattern) is type(value) and pattern == value
    return None if same else f"{path} is {value!r}, not {pattern!r}"


def _object(pattern: dict[str, Any], value: Any, path: str) -> str | None:
    if not isinstance(value, dict):
        return f"{path} is {value!r}, not an object"
    for key, part in pattern.items():
        if found := mismatch(part, value.get(key, _MISSING), f"{path}.{key}"):
            return found
    return None
