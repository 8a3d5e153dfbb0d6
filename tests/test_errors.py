"""Errors as the host sees them."""

from __future__ import annotations

import re

import pytest

from bridge.errors import RETRYABLE, BridgeError, Code, from_exception, invalid_args


def test_codes_are_snake_case_of_their_names() -> None:
    for code in Code:
        assert code.value == code.name.lower()
        assert re.fullmatch(r"[a-z_]+", code)


@pytest.mark.parametrize("code", list(Code))
def test_retryable_is_the_codes_own_unless_told(code: Code) -> None:
    assert BridgeError("x", code=code).to_chunk()["retryable"] is (code in RETRYABLE)
    assert BridgeError("x", code=code, retryable=True).to_chunk()["retryable"] is True


def test_a_chunk_has_only_what_is_known() -> None:
    assert BridgeError("x").to_chunk() == {
        "type": "error",
        "error": "x",
        "code": "internal",
        "retryable": False,
    }
    full = BridgeError("x", code=Code.LM_RATE_LIMIT, retry_after_ms=5, details={"status": 429}).to_chunk()
    assert list(full) == ["type", "error", "code", "retryable", "retry_after_ms", "details"]


def test_the_code_is_plain_text() -> None:
    assert type(BridgeError("x").to_chunk()["code"]) is str


def test_invalid_args_name_the_place() -> None:
    error = invalid_args("wrong", "$.args.items[2].text")
    assert (error.code, error.details) == (Code.INVALID_ARGS, {"path": "$.args.items[2].text"})


def test_any_exception_becomes_internal_with_its_name() -> None:
    assert (
        from_exception(ValueError("no luck")).to_chunk()["error"]
        == "The handler failed with ValueError: no luck"
    )
    assert from_exception(KeyError()).message == "The handler failed with KeyError."
    assert len(from_exception(ValueError("x" * 100_000)).message) <= 2000
    known = BridgeError("x", code=Code.OVERLOADED)
    assert from_exception(known) is known


def test_paths_in_messages_and_details_are_shortened() -> None:
    chunk = BridgeError("see /home/me/secret/file.txt", details={"at": ["/usr/lib/x.py"]}).to_chunk()
    assert chunk["error"] == "see file.txt"
    assert chunk["details"] == {"at": ["x.py"]}
