"""Keeping secrets and the machine's paths out of everything that leaves the process."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "[redacted]"
#: Shorter values would blank out ordinary words.
MIN_SECRET_CHARS = 6

_secrets: set[str] = set()
_secret_pattern: re.Pattern[str] | None = None

# Shapes providers give to keys, for keys that were never registered (one quoted in a provider's answer).
_KEY_SHAPED = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|key|tok)-[A-Za-z0-9_\-*]{12,}|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?i:\b(?:bearer|basic) )[A-Za-z0-9_\-.=+/]{12,}"
)
# An absolute path of two parts or more; not one inside a URL, a word, or another path.
_PATH = re.compile(r"(?<![\w:/.\-~])(?:~|[A-Za-z]:)?(?:/[\w.\-+@%]+){2,}/?")
_MACHINE_ROOTS = re.compile(
    r"(?:~|[A-Za-z]:)?/(?:home|root|usr|etc|var|opt|tmp|srv|mnt|media|lib\w*|proc|dev|Users)/"
)


def add_secret(value: str) -> None:
    """Have ``value`` removed from all output for the life of the process."""
    global _secret_pattern
    value = value.strip()
    if len(value) < MIN_SECRET_CHARS or value in _secrets:
        return
    _secrets.add(value)
    longest_first = sorted(_secrets, key=len, reverse=True)
    _secret_pattern = re.compile("|".join(map(re.escape, longest_first)))


def redact(text: str) -> str:
    """``text`` without known secrets, key-shaped strings and absolute paths (their last part stays)."""
    text = redact_secrets(text)
    if "/" in text:
        text = _PATH.sub(_shorten, text)
    return text


def redact_secrets(text: str) -> str:
    """``text`` without known secrets and key-shaped strings."""
    if _secret_pattern is not None:
        text = _secret_pattern.sub(REDACTED, text)
    return _KEY_SHAPED.sub(REDACTED, text)


def scrub(value: Any) -> Any:
    """``value`` with every string in its dicts and lists passed through :func:`redact`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: scrub(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item) for item in value]
    return value


def _shorten(match: re.Match[str]) -> str:
    path = match.group()
    if not _MACHINE_ROOTS.match(path) and path.count("/") < 3:
        return path  # "/v1/models" and the like: a route, not a file
    return path.rstrip("/").rsplit("/", 1)[-1]
