"""Values that a case names instead of spelling them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Characters of one to four bytes of UTF-8.
_LETTERS = "aé€😀"


def filled(value: Any, names: Mapping[str, Any]) -> Any:
    """``value`` with ``"$text:N"`` as a text of N characters, ``"$nest:N"`` as N lists in one another, and
    ``"$name"`` as what ``names`` has for it. Other strings with a dollar, which patterns have, stay.
    """
    if isinstance(value, dict):
        return {key: filled(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, names) for part in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    kind, _, number = value[1:].partition(":")
    if kind == "text" and number:
        return (_LETTERS * (int(number) // 4 + 1))[: int(number)]
    if kind == "nest" and number:
        nested: list[Any] = []
        for _ in range(int(number) - 1):
            nested = [nested]
        return nested
    return names.get(kind, value)
