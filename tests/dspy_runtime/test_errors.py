"""Every failure of DSPy as an error of the protocol."""

from __future__ import annotations

from typing import Any

import dspy
import pydantic
import pytest
from dspy import lm15
from dspy.clients.errors import wrap_error

from bridge.dspy_runtime.errors import to_bridge_error
from bridge.errors import BridgeError, Code

META = {"model": "m", "provider": "openai", "status": 429, "request_id": "req-1"}


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (dspy.LMAuthError("no"), "lm_auth", False),
        (dspy.LMBillingError("no"), "lm_billing", False),
        (dspy.LMRateLimitError("no"), "lm_rate_limit", True),
        (dspy.LMTimeoutError("no"), "lm_timeout", True),
        (dspy.LMServerError("no"), "lm_unavailable", True),
        (dspy.LMTransportError("no"), "lm_unavailable", True),
        (dspy.LMLockTimeoutError("no"), "lm_unavailable", True),
        (dspy.LMStreamAssemblyError("no"), "lm_unavailable", True),
        (dspy.LMInvalidRequestError("no"), "lm_invalid_request", False),
        (dspy.LMUnsupportedModelError("no"), "lm_invalid_request", False),
        (dspy.LMUnsupportedFeatureError("no"), "lm_invalid_request", False),
        (dspy.LMConfigurationError("no"), "lm_invalid_request", False),
        (dspy.LMNotConfiguredError("no"), "lm_not_configured", False),
        (dspy.ContextWindowExceededError(message="no"), "lm_context_window", False),
        (dspy.LMCollectionLimitError("no"), "lm_error", False),
        (dspy.LMUnexpectedError("no"), "lm_error", False),
        (dspy.LMProviderError("no"), "lm_error", False),
        (dspy.LMError("no"), "lm_error", False),
        (dspy.DSPyError("no"), "program_error", False),
        (ValueError("No LM is loaded. Please configure"), "lm_not_configured", False),
        (ImportError("litellm is needed"), "lm_not_configured", False),
        (RuntimeError("no"), "internal", False),
        (ImportError("numpy"), "internal", False),
    ],
)
def test_codes(error: Exception, code: str, retryable: bool) -> None:
    found = to_bridge_error(error)
    assert (str(found.code), found.retryable) == (code, retryable)
    assert found.message


def test_every_lm_error_of_dspy_has_an_lm_code() -> None:
    def below(kind: Any) -> set[Any]:
        return {kind, *(each for sub in kind.__subclasses__() for each in below(sub))}

    for kind in below(dspy.LMError):
        made = kind(message="no")
        assert to_bridge_error(made).code.startswith("lm_"), kind


def test_details_hold_what_is_known_only() -> None:
    assert to_bridge_error(dspy.LMRateLimitError("no", **META)).details == META
    assert to_bridge_error(dspy.LMRateLimitError("no", model="m")).details == {"model": "m"}
    assert to_bridge_error(dspy.LMRateLimitError("no")).details is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1.2, 1200),
        (0, 0),
        (0.0001, 1),
        (3, 3000),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (-1, None),
        ("2", None),
    ],
)
def test_retry_after_is_whole_milliseconds(given: Any, expected: int | None) -> None:
    error = dspy.LMRateLimitError("no")
    error.retry_after = given
    assert to_bridge_error(error).retry_after_ms == expected


@pytest.mark.parametrize(
    "cause", [TimeoutError("x"), type("ReadTimeout", (Exception,), {})("read timed out")]
)
def test_a_read_timeout_is_a_timeout(cause: Exception) -> None:
    low = lm15.TransportError("read timed out")
    low.__cause__ = cause
    error = dspy.LMTransportError("read timed out")
    error.__cause__ = low
    assert to_bridge_error(error).code is Code.LM_TIMEOUT


def test_texts_are_short_and_without_advice_for_programmers() -> None:
    error = wrap_error(lm15.AuthError("Incorrect API key", provider="openai", status=401), model="m")
    assert to_bridge_error(error).message == "Incorrect API key"
    assert len(to_bridge_error(dspy.LMServerError("x" * 10_000)).message) <= 500


def test_unreadable_output_names_the_fields_and_quotes_the_answer() -> None:
    error = dspy.AdapterParseError("ChatAdapter", dspy.Signature("q -> a, b: int"), "gibberish " * 1000)
    found = to_bridge_error(error)
    assert found.code is Code.LM_OUTPUT_INVALID
    assert "(a, b)" in found.message
    assert "gibberish" in found.message
    assert len(found.message) < 400


def test_validation_errors() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(list[int]).validate_python([1, "x"])
    found = to_bridge_error(caught.value)
    assert found.code is Code.LM_OUTPUT_INVALID
    assert "1: Input should be a valid integer" in found.message


def test_ours_pass_unchanged() -> None:
    error = BridgeError("x")
    assert to_bridge_error(error) is error


def test_chains_that_lead_back_end() -> None:
    error = dspy.LMTransportError("x")
    error.__cause__, error.__context__ = None, error
    assert to_bridge_error(error).code is Code.LM_UNAVAILABLE
