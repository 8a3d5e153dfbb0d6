"""What DSPy, its LM layer and its adapters raise, as errors of the wire protocol."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from typing import Any

import dspy
import pydantic

from bridge.errors import BridgeError, Code, from_exception

MAX_MESSAGE_CHARS = 500
#: Of an answer that could not be read, kept in ``details.raw``.
MAX_RAW_CHARS = 100_000

# Specific classes before their parents.
_CODES: tuple[tuple[type[Exception], Code], ...] = (
    (dspy.ContextWindowExceededError, Code.LM_CONTEXT_WINDOW),
    (dspy.LMAuthError, Code.LM_AUTH),
    (dspy.LMBillingError, Code.LM_BILLING),
    (dspy.LMRateLimitError, Code.LM_RATE_LIMIT),
    (dspy.LMTimeoutError, Code.LM_TIMEOUT),
    (dspy.LMServerError, Code.LM_UNAVAILABLE),
    (dspy.LMTransportError, Code.LM_UNAVAILABLE),
    (dspy.LMLockTimeoutError, Code.LM_UNAVAILABLE),
    (dspy.LMStreamAssemblyError, Code.LM_UNAVAILABLE),
    (dspy.LMNotConfiguredError, Code.LM_NOT_CONFIGURED),
    (dspy.LMConfigurationError, Code.LM_INVALID_REQUEST),
    (dspy.LMUnsupportedFeatureError, Code.LM_INVALID_REQUEST),
    (dspy.LMInvalidRequestError, Code.LM_INVALID_REQUEST),
    (dspy.LMCollectionLimitError, Code.LM_ERROR),
    (dspy.LMError, Code.LM_ERROR),
    (dspy.AdapterParseError, Code.LM_OUTPUT_INVALID),
)

# How lm15, httpx, requests and the standard library name a wait that took too long.
_TIMEOUT_NAMES = (
    "ReadTimeout",
    "WriteTimeout",
    "ConnectTimeout",
    "PoolTimeout",
    "APITimeoutError",
    "Timeout",
)

_NO_JSON = "must be a JSON-compatible value"

HOW_TO_CONFIGURE = (
    'Send a configure command, pass "lm", or start the worker with --model or DSPY_BRIDGE_MODEL.'
)
INSTALL_LITELLM = "This model is reached through LiteLLM, which is not installed: pip install litellm"


def not_configured(message: str = "No language model is configured.") -> BridgeError:
    """``lm_not_configured``, saying how to configure one."""
    return BridgeError(f"{message} {HOW_TO_CONFIGURE}", code=Code.LM_NOT_CONFIGURED)


def to_bridge_error(error: BaseException, lm: Mapping[str, Any] | None = None) -> BridgeError:
    """The error a host is told for ``error``, raised by a DSPy program or an LM; its cause is ``error``.

    ``details`` holds ``model``, ``provider``, ``status`` and ``request_id`` as far as they are known, ``raw``
    for an answer that could not be read, and ``streamed`` when the LM failed midway: how many characters of
    each field were sent and are void. ``lm`` says ``model`` and ``provider`` as the host knows them, for
    whatever is the LM's fault.
    """
    found = _translated(error)
    if found is not error:
        found.__cause__ = error
    if lm is not None and found.code.startswith("lm_"):
        found.details = {**(found.details or {}), **lm}
    if streamed := getattr(error, "streamed", None):
        found.details = {**(found.details or {}), "streamed": streamed}
        status = found.details.get("status")
        if found.code is Code.LM_ERROR and not (isinstance(status, int) and 400 <= status < 500):
            # It was writing already: whatever ended that is not for the request to mend.
            found.code, found.retryable = Code.LM_UNAVAILABLE, True
    return found


def _translated(error: BaseException) -> BridgeError:
    if isinstance(error, BridgeError):
        return error
    if any(_NO_JSON in str(each) for each in _chain(error)):
        return _no_json(error)
    if isinstance(error, dspy.DSPyError):
        return _from_dspy(error)
    if isinstance(error, pydantic.ValidationError):
        return BridgeError(f"A value does not fit: {first_problem(error)}", code=Code.LM_OUTPUT_INVALID)
    if isinstance(error, ValueError) and str(error).startswith("No LM is loaded"):
        return not_configured()
    if isinstance(error, ImportError) and "litellm" in str(error).lower():
        return BridgeError(INSTALL_LITELLM, code=Code.LM_NOT_CONFIGURED)
    return from_exception(error)


def _no_json(error: BaseException) -> BridgeError:
    # DSPy's engine reads answers in JSON itself, and fails at numbers that JSON has not.
    written = getattr(error, "written", "")
    return BridgeError(
        "The language model's answer is no JSON: it holds NaN or an infinite number.",
        code=Code.LM_OUTPUT_INVALID,
        details={"raw": written[:MAX_RAW_CHARS]} if written else None,
    )


def first_problem(error: pydantic.ValidationError) -> str:
    """The first complaint of a pydantic error: where, in dots, and what."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _from_dspy(error: dspy.DSPyError) -> BridgeError:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.PROGRAM_ERROR)
    if code is Code.LM_UNAVAILABLE and any(map(_is_timeout, _chain(error))):
        code = Code.LM_TIMEOUT
    message = _parse_message(error) if isinstance(error, dspy.AdapterParseError) else _short(error.message)
    return BridgeError(
        message or f"The language model failed ({code.value}).",
        code=code,
        retryable=_retryable(error, code),
        retry_after_ms=_retry_after_ms(error.retry_after),
        details=_details(error) or None,
    )


def _retryable(error: dspy.DSPyError, code: Code) -> bool | None:
    # Told apart from the code's default only where DSPy knows better: a cut stream may go through next time.
    return True if code is Code.LM_UNAVAILABLE or dspy.is_retryable_lm_error(error) else None


def _details(error: dspy.DSPyError) -> dict[str, Any]:
    names = ("model", "provider", "status", "request_id")
    details = {name: value for name in names if (value := getattr(error, name, None)) is not None}
    if isinstance(error, dspy.AdapterParseError) and isinstance(error.lm_response, str):
        details["raw"] = _raw(error)[:MAX_RAW_CHARS]
    return details


def _retry_after_ms(seconds: Any) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return math.ceil(seconds * 1000)


def _parse_message(error: dspy.AdapterParseError) -> str:
    fields = ", ".join(error.signature.output_fields)
    answer = _short(_raw(error), 200)
    said = f" It said: {answer}" if answer else ""
    return f"The language model's answer could not be read as the output fields ({fields}).{said}"


def _raw(error: dspy.AdapterParseError) -> str:
    """What the model said. Of an answer without text DSPy keeps how Python shows it: its thoughts count."""
    text = error.lm_response or ""
    if text.startswith("{'text': "):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return text
        return str(found.get("text") or found.get("reasoning_content") or "")
    return text


def _short(text: str, limit: int = MAX_MESSAGE_CHARS) -> str:
    # Advice for programmers of the SDK follows after a blank line.
    text = text.partition("\n\n  To fix:")[0]
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__ in _TIMEOUT_NAMES


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
