"""Keeping secrets and the machine's paths out of everything that leaves the process."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "[redacted]"
#: Shorter values would blank out ordinary words.
MIN_SECRET_CHARS = 6

_secrets: set[str] = set()
_secret_pattern: re.Pattern[str] | None = None

# Patterns are compiled where they are first used (`re` keeps them): no start waits for that.
# Shapes providers give to keys, for keys that were never registered (one quoted in a provider's answer).
_KEY_SHAPED = (
    r"\b(?:sk|pk|rk|gsk|xai|key|tok)-[A-Za-z0-9_\-*]{12,}|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?i:\b(?:bearer|basic) )[A-Za-z0-9_\-.=+/]{12,}"
)
# An absolute path of two parts or more, also behind file://; not one that is part of another URL or word.
_PATH = r"(?:file://|(?<![\w/.~])(?<!:/))(?:~|[A-Za-z]:)?(?:/[\w.\-+@%]+){2,}/?|(?<![\w/])~/[\w.\-+@%/]+"
# Routes of web APIs look like paths and tell nothing of the machine.
_ROUTE = r"/(?:v\d\w*|api|chat|models|openai)/"


def add_secret(value: str) -> None:
    """Have ``value`` removed from all output for the life of the process.

    Also each of its lines, and what it looks like quoted by ``repr`` or JSON.
    """
    global _secret_pattern
    import json  # only where there are secrets

    value = value.strip()
    forms = {value, *value.splitlines()}
    forms |= {repr(form)[1:-1] for form in forms} | {json.dumps(form)[1:-1] for form in forms}
    new = {form for form in map(str.strip, forms) if len(form) >= MIN_SECRET_CHARS} - _secrets
    if not new:
        return
    _secrets.update(new)
    longest_first = sorted(_secrets, key=len, reverse=True)
    _secret_pattern = re.compile("|".join(map(re.escape, longest_first)))


def redact(text: str) -> str:
    """``text`` without known secrets, key-shaped strings and absolute paths (their last part stays)."""
    text = redact_secrets(text)
    if "/" in text:
        text = re.sub(_PATH, _shorten, text)
    return text


def redact_secrets(text: str) -> str:
    """``text`` without known secrets and key-shaped strings."""
    if _secret_pattern is not None:
        text = _secret_pattern.sub(REDACTED, text)
    return re.sub(_KEY_SHAPED, REDACTED, text)


def scrub(value: Any) -> Any:
    """``value`` with every string in its dicts and lists passed through :func:`redact`.

    What stands under ``path`` says where in the request something is: it is for machines, and stays. A
    model's words, under ``raw``, keep their paths: they are not this machine's.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _scrub_member(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item) for item in value]
    return value


def _scrub_member(key: Any, value: Any) -> Any:
    if key == "path":
        return value
    return redact_secrets(value) if key == "raw" and isinstance(value, str) else scrub(value)


def _shorten(match: re.Match[str]) -> str:
    path = match.group()
    if re.match(_ROUTE, path):
        return path
    return path.rstrip("/").rsplit("/", 1)[-1]
