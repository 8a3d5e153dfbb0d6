"""The ``scripted`` LM: an engine for ``dspy.LM`` whose answers come from a script, or are echoes.

For demos and tests without a key. DSPy formats the prompt, retries, caches, streams and parses as for any LM.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any

import dspy
import pydantic
from dspy import lm15

from bridge.dspy_runtime.answer_writer import example, write_answer
from bridge.dspy_runtime.prompt_reader import Prompt, read_prompt
from bridge.dspy_runtime.signatures import full_type
from bridge.dspy_runtime.specs import SCRIPTED, ScriptEntry, ScriptError

_ERRORS: dict[str, type[lm15.LM15Error]] = {
    "auth": lm15.AuthError,
    "billing": lm15.BillingError,
    "rate_limit": lm15.RateLimitError,
    "timeout": lm15.TimeoutError,
    "server": lm15.ServerError,
    "transport": lm15.TransportError,
    "invalid_request": lm15.InvalidRequestError,
    "context_length": lm15.ContextLengthError,
    "unsupported_model": lm15.UnsupportedModelError,
}
_BY_STATUS = {
    401: "auth",
    402: "billing",
    403: "auth",
    404: "unsupported_model",
    408: "timeout",
    429: "rate_limit",
    504: "timeout",
}
_TOKEN = re.compile(r"\s*\S+|\s+")


class ScriptedEngine:
    """Answers from ``entries``, the first that matches. ``tokens_per_s`` paces :meth:`stream` (0: at
    once)."""

    def __init__(self, entries: list[ScriptEntry], tokens_per_s: float = 0.0) -> None:
        self._entries = entries
        self._left = [entry.times for entry in entries]
        self.pause_s = 1 / tokens_per_s if tokens_per_s else 0.0

    def complete(self, request: lm15.Request) -> lm15.Response:
        """The whole answer, after the entry's delay."""
        plan = self.plan(request)
        if plan.delay_s:
            time.sleep(plan.delay_s)
        return plan.response()

    def stream(self, request: lm15.Request) -> Iterator[lm15.StreamEvent]:
        """The answer token by token."""
        plan = self.plan(request)
        if plan.delay_s:
            time.sleep(plan.delay_s)
        for event, paced in plan.events():
            if paced and self.pause_s:
                time.sleep(self.pause_s)
            yield event

    def close(self) -> None:
        """Nothing is held open."""

    def plan(self, request: lm15.Request) -> Plan:
        """What to answer to ``request``."""
        system = _joined(request.system)
        user = next((_joined(m.parts) for m in reversed(request.messages) if m.role == "user"), "")
        prompt = read_prompt(system, user)
        entry = self._pick(prompt.inputs if prompt else {"": user}, user)
        size = len(system) + sum(len(_joined(message.parts)) for message in request.messages)
        return Plan(request.model, entry, _answer(prompt, entry, user), size)

    def _pick(self, inputs: dict[str, str], user: str) -> ScriptEntry:
        for index, entry in enumerate(self._entries):
            left = self._left[index]
            if left == 0 or not _matches(entry.match, inputs):
                continue
            if left is not None:
                self._left[index] = left - 1
            return entry
        return ScriptEntry()


class AsyncScriptedEngine:
    """The same for DSPy's async calls."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """The whole answer, after the entry's delay."""
        plan = self._engine.plan(request)
        if plan.delay_s:
            await asyncio.sleep(plan.delay_s)
        return plan.response()

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        """The answer token by token."""
        plan = self._engine.plan(request)
        if plan.delay_s:
            await asyncio.sleep(plan.delay_s)
        for event, paced in plan.events():
            if paced:
                await asyncio.sleep(self._engine.pause_s)
            yield event

    async def aclose(self) -> None:
        """Nothing is held open."""


class Plan:
    """One answer: its words, or the failure that stands for it."""

    def __init__(self, model: str, entry: ScriptEntry, text: str, prompt_chars: int) -> None:
        self._model = model
        self._error = entry.error
        self._reasoning = entry.reasoning
        self._text = text
        # About four characters to a token, as with real tokenizers: these are no measurements.
        self._usage = lm15.Usage(input_tokens=prompt_chars // 4 + 1, output_tokens=len(text) // 4 + 1)
        self.delay_s = entry.delay_s

    def response(self) -> lm15.Response:
        """The answer as a whole.

        Raises:
            lm15.LM15Error: the entry scripts one.
        """
        self._fail()
        parts: list[Any] = [lm15.ThinkingPart(self._reasoning)] if self._reasoning else []
        parts.append(lm15.TextPart(self._text))
        message = lm15.Message.assistant(parts)
        return lm15.Response(
            id=None, model=self._model, message=message, finish_reason="stop", usage=self._usage
        )

    def events(self) -> Iterator[tuple[lm15.StreamEvent, bool]]:
        """The answer as stream events, each with whether it is a token (which the pace applies to)."""
        self._fail()
        yield lm15.StreamStartEvent(id=None, model=self._model), False
        index = 0
        if self._reasoning:
            for token in _TOKEN.findall(self._reasoning):
                yield lm15.StreamDeltaEvent(delta=lm15.ThinkingDelta(text=token, part_index=0)), True
            index = 1
        for token in _TOKEN.findall(self._text):
            yield lm15.StreamDeltaEvent(delta=lm15.TextDelta(text=token, part_index=index)), True
        yield lm15.StreamEndEvent(finish_reason="stop", usage=self._usage), False

    def _fail(self) -> None:
        if self._error is not None:
            raise _to_error(self._error)


def _to_error(error: ScriptError) -> lm15.LM15Error:
    by_status = "server" if (error.status or 0) >= 500 else "invalid_request"
    code = error.code or _BY_STATUS.get(error.status or 0, by_status)
    return _ERRORS[code](
        error.message, provider=SCRIPTED, status=error.status, retry_after=error.retry_after_s
    )


def _matches(match: str | dict[str, Any] | None, inputs: dict[str, str]) -> bool:
    if match is None:
        return True
    if isinstance(match, str):
        return any(match in value for value in inputs.values())
    return all(name in inputs and _same(value, inputs[name]) for name, value in match.items())


def _same(wanted: Any, text: str) -> bool:
    if isinstance(wanted, str):
        return wanted.strip() == text.strip()
    if text == str(wanted):
        return True
    try:
        return bool(json.loads(text) == wanted)
    except ValueError:
        return False


def _answer(prompt: Prompt | None, entry: ScriptEntry, user: str) -> str:
    if entry.text is not None or entry.error is not None:
        return entry.text or ""
    scripted = entry.outputs or {}
    if prompt is None:  # no adapter's prompt: a bare lm("…") call
        return str(next(iter(scripted.values()), user))
    values = {}
    for name in prompt.outputs:
        echo = next(iter(prompt.inputs.values()), "")
        schema = _caller_schema(name) or prompt.schemas.get(name, {})
        values[name] = scripted[name] if name in scripted else example(schema, echo or name)
    return write_answer(prompt.format, values)


def _caller_schema(name: str) -> dict[str, Any] | None:
    """The field's exact type from the predictor that calls, where there is one; prompts tell less (XML's
    do)."""
    callers = dspy.settings.caller_modules
    signature = getattr(callers[-1], "signature", None) if callers else None
    field = signature.output_fields.get(name) if isinstance(signature, type(dspy.Signature)) else None
    return None if field is None else _schema_of(full_type(field))


@lru_cache(maxsize=512)
def _cached_schema(annotation: Any) -> dict[str, Any] | None:
    try:
        return pydantic.TypeAdapter(annotation).json_schema()
    except (pydantic.PydanticUserError, TypeError):
        return None


def _schema_of(annotation: Any) -> dict[str, Any] | None:
    if annotation is str:
        return {"type": "string"}
    return _cached_schema(annotation)


def _joined(parts: Any) -> str:
    if parts is None or isinstance(parts, str):
        return parts or ""
    return "".join(part.text for part in parts if isinstance(part, lm15.TextPart))
