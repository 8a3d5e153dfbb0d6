"""Taking signatures apart: ``"a: int, b -> c: list[str]"`` into names and the texts of their types."""

from __future__ import annotations

MAX_SIGNATURE_CHARS = 20_000

_CLOSING = {"(": ")", "[": "]", "{": "}"}


def split_signature(text: str) -> tuple[list[tuple[str, str | None]], list[tuple[str, str | None]]]:
    """The inputs and outputs of a signature text, each a name and its type's text (None if it has none).

    Raises:
        ValueError: it is malformed; the message says how.
    """
    if len(text) > MAX_SIGNATURE_CHARS:
        raise ValueError(f"The signature is longer than {MAX_SIGNATURE_CHARS} characters.")
    sides = _split(text, "->")
    if len(sides) != 2:
        raise ValueError('A signature has one "->" between its inputs and its outputs: "question -> answer".')
    return split_fields(sides[0]), split_fields(sides[1])


def split_fields(text: str) -> list[tuple[str, str | None]]:
    """``"a: int, b"`` as ``[("a", "int"), ("b", None)]``."""
    parts = _split(text, ",")
    if not parts[-1].strip():
        parts.pop()  # a trailing comma, or nothing at all
    return [split_field(part) for part in parts]


def split_field(text: str) -> tuple[str, str | None]:
    """``"a: int"`` as ``("a", "int")``."""
    name, colon, kind = text.partition(":")
    return name.strip(), kind.strip() if colon else None


def _split(text: str, separator: str) -> list[str]:
    """``text`` at each ``separator`` that stands outside brackets and quotes."""
    parts, start, at = [], 0, 0
    expected: list[str] = []
    while at < len(text):
        char = text[at]
        if char in "'\"":
            at = _end_of_string(text, at)
            continue
        if char in _CLOSING:
            expected.append(_CLOSING[char])
        elif expected and char == expected[-1]:
            expected.pop()
        elif not expected and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at = at + len(separator)
            continue
        at += 1
    return [*parts, text[start:]]


def _end_of_string(text: str, start: int) -> int:
    """The index after the quoted string that begins at ``start``; the text's end if it is not closed."""
    at = start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == text[start]:
            return at + 1
        at += 1
    return len(text)
