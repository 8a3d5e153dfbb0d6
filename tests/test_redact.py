"""Secrets and the machine's paths stay inside."""

from __future__ import annotations

import pytest

from bridge import redact as module
from bridge.redact import REDACTED, add_secret, redact, scrub


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_secrets", set())
    monkeypatch.setattr(module, "_secret_pattern", None)


def test_a_remembered_secret_is_removed_everywhere() -> None:
    add_secret("hunter2-long")
    add_secret("  hunter2-long-er  ")
    assert redact("a hunter2-long b hunter2-long-er c") == f"a {REDACTED} b {REDACTED} c"
    assert scrub({"k": ["hunter2-long", {"x": ("hunter2-long",)}], "n": 5}) == {
        "k": [REDACTED, {"x": [REDACTED]}],
        "n": 5,
    }


def test_a_secret_with_signs_is_taken_literally() -> None:
    add_secret("a.b*c(d[e")
    assert redact("x a.b*c(d[e y aXb*c(d[e") == f"x {REDACTED} y aXb*c(d[e"


@pytest.mark.parametrize("short", ["", "a", "12345", "   "])
def test_short_values_blank_out_nothing(short: str) -> None:
    add_secret(short)
    assert redact("a 12345 b") == "a 12345 b"


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcdefghij0123456789",
        "gsk-abcdefghij0123456789",
        "AIzaSyA0123456789abcdefghijklmnopqrs",
        "Bearer abcdefghijklmnop123",
        "sk-ant-api03-abcdefghijkl",
    ],
)
def test_what_is_shaped_like_a_key_is_removed(key: str) -> None:
    assert key not in redact(f"Incorrect API key provided: {key}.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open /home/me/x.txt failed", "open x.txt failed"),
        ("'/tmp/a b'", "'a b'"),
        ("/usr/lib/python3/site-packages/x.py:12", "x.py:12"),
        ("POST /v1/models gave 404", "POST /v1/models gave 404"),
        (
            "see https://api.example.com/v1/chat/completions",
            "see https://api.example.com/v1/chat/completions",
        ),
        ("1/2 and a/b", "1/2 and a/b"),
        ("no path", "no path"),
    ],
)
def test_absolute_paths_keep_only_their_last_part(text: str, expected: str) -> None:
    assert redact(text) == expected
