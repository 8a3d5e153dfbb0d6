"""From the LM's deltas to those of output fields, one LM call at a time.

A :class:`FieldStream` is given to ``dspy.context(send_stream=…, stream_listeners=[])``. The adapters of
:mod:`bridge.dspy_runtime.adapters` hand their calls to it, so that for each call it knows the signature, the
format, where the text begins and ends, and what was parsed from it in the end. What was streamed is held
against that: whatever is missing follows, and what was wrong is taken back. A call that streams nothing (an
answer from the cache, an LM that can not) gives each field at once when it is done.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from types import UnionType
from typing import Any, Final, Protocol, Union, get_args, get_origin

import dspy
from dspy.adapters import Adapter, JSONAdapter, XMLAdapter
from dspy.adapters.types.tool import ToolCalls
from dspy.adapters.utils import parse_value
from dspy.utils.exceptions import AdapterParseError

from bridge.dspy_runtime.field_readers import ChatReader, Kind, Reader, Whole, XmlReader
from bridge.dspy_runtime.json_reader import JsonReader
from bridge.dspy_runtime.json_schema import to_plain
from bridge.wire.codec import encode_plain
from bridge.wire.fallback import clean, plain

#: Deltas of one call after which the loop is given back: a provider may have sent them all in one packet.
TURN: Final = 64
#: Deepest nesting of a value that is told as JSON.
MAX_DEPTH: Final = 100


class Listener(Protocol):
    """Who is told what one predictor's calls bring."""

    #: Whether it wants to know of ``PROSE`` and ``CALLS``.
    prose: bool
    #: How many characters of each field the host was sent since the call began or was taken back.
    sent: dict[str, int]

    async def started(self) -> None:
        """A call begins."""

    async def event(self, kind: Kind, field: str, text: str) -> None:
        """See :class:`Kind`."""

    async def restart(self) -> None:
        """What was told of the current call is void: everything follows anew."""

    async def answered(self, values: dict[str, Any]) -> None:
        """A call is over: the parsed output fields. They may be changed before the program gets them."""


_current: ContextVar[_Call | None] = ContextVar("bridge_lm_call", default=None)


class FieldStream:
    """What a program streams into. ``listeners`` by predictor; the calls of others are not streamed."""

    def __init__(self, listeners: Mapping[dspy.Predict, Listener]) -> None:
        self._listeners = {id(predictor): listener for predictor, listener in listeners.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> FieldStream:
        return self  # DSPy deep-copies its settings here and there

    async def send(self, chunk: Any) -> None:
        """Take a chunk of the LM call that runs in this context."""
        call = _current.get()
        if call is not None:
            await call.take(chunk)

    async def call(
        self, adapter: Adapter, lm: Any, settings: dict[str, Any], signature: Any, demos: Any, inputs: Any
    ) -> list[dict[str, Any]]:
        """``adapter.acall`` with everything it streams going to the listener.

        DSPy asks a second time, for JSON, when the format was not kept, but not once anything was streamed.
        That is done here instead, after a ``restart`` if anything was told.

        Raises:
            whatever the adapter raises; as ``streamed`` it has what the listener had ``sent``.
        """
        listener = self._listeners.get(id(dspy.settings.caller_predict))
        if listener is None:
            with dspy.context(send_stream=None):
                return await _acall(adapter, lm, settings, signature, demos, inputs)
        await listener.started()
        call = _Call(listener, adapter, signature)
        try:
            return await call.run(lm, settings, demos, inputs)
        except AdapterParseError:
            if isinstance(adapter, JSONAdapter) or not getattr(adapter, "use_json_adapter_fallback", False):
                raise
            await call.take_back()
        again = adapter._make_json_adapter_fallback()
        return await _Call(listener, again, signature).run(lm, settings, demos, inputs)


async def _acall(adapter: Adapter, *arguments: Any) -> list[dict[str, Any]]:
    """``adapter.acall`` without the chat adapter's own second try."""
    kind = JSONAdapter if isinstance(adapter, JSONAdapter) else Adapter
    answers: list[dict[str, Any]] = await kind.acall(adapter, *arguments)
    return answers


class _Call:
    """One LM call of one predictor."""

    def __init__(self, listener: Listener, adapter: Adapter, signature: Any) -> None:
        self._listener = listener
        self._adapter = adapter
        self._signature = signature
        self._fields: dict[str, Any] = {
            name: field.annotation
            for name, field in signature.output_fields.items()
            if field.annotation is not ToolCalls
        }
        texts = {name for name, annotation in self._fields.items() if is_text(annotation)}
        #: Where native thinking goes.
        self._thoughts = [name for name, kind in self._fields.items() if kind is dspy.Reasoning]
        self._thinking = False
        self._reader = _reader(adapter, self._fields, texts, prose=listener.prose)
        self._calling = not listener.prose
        self._half = ""
        self._written: list[str] = []
        self._told: dict[str, list[str]] = {}
        self._done: set[str] = set()
        self._turn = TURN

    async def run(self, lm: Any, settings: dict[str, Any], demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """Make the call and tell what it brings."""
        before = _current.set(self)
        try:
            answers = await _acall(self._adapter, lm, settings, self._signature, demos, inputs)
        except Exception as error:
            error.written = "".join(self._written)  # type: ignore[attr-defined] # for the host
            if self._listener.sent:
                error.streamed = {**self._listener.sent}  # type: ignore[attr-defined] # for the host
            raise
        finally:
            _current.reset(before)
        await self._settle(answers[0])
        return answers

    async def take(self, chunk: Any) -> None:
        """Take a chunk in the shape of OpenAI's."""
        if not chunk.choices:
            return
        delta = chunk.choices[0].delta
        if text := delta.content:
            if self._thinking:
                await self._end_thinking()
            if self._half or "\ud800" <= text[-1] <= "\udbff":
                text = self._joined(text)
            self._written.append(text)
            for kind, field, piece in self._reader.feed(text):
                await self._tell(kind, field, piece)
        elif thought := getattr(delta, "reasoning_content", None):
            await self._think(thought)
        elif not self._calling and getattr(delta, "tool_calls", None):
            self._calling = True
            if self._thinking:
                await self._end_thinking()
            await self._listener.event(Kind.CALLS, "", "")
        self._turn -= 1
        if not self._turn:
            self._turn = TURN
            await asyncio.sleep(0)

    def _joined(self, text: str) -> str:
        """``text`` with the half of a character that came before it, without one that it ends with."""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return clean(text)

    async def take_back(self) -> None:
        """What was told is void."""
        await self._listener.restart()
        self._told, self._done = {}, set()

    def _tell(self, kind: Kind, field: str, text: str) -> Awaitable[None]:
        if kind is Kind.DELTA:
            if not text.isascii():
                text = clean(text)
            self._told.setdefault(field, []).append(text)
        elif kind is Kind.DONE:
            self._done.add(field)
        return self._listener.event(kind, field, text)

    async def _think(self, thought: str) -> None:
        self._thinking = True
        if not self._thoughts:
            await self._listener.event(Kind.THOUGHT, "", thought)
        for field in self._thoughts:
            # The model's native thinking is then the field's value, whatever its text says.
            self._reader.skip(field)
            await self._tell(Kind.DELTA, field, thought)

    async def _end_thinking(self) -> None:
        self._thinking = False
        if not self._thoughts:
            await self._listener.event(Kind.THOUGHT, "", "")
        for field in self._thoughts:
            await self._tell(Kind.DONE, field, "")

    async def _settle(self, values: dict[str, Any]) -> None:
        """Tell what is missing, and everything anew if what was told is not what was parsed."""
        if self._thinking:
            await self._end_thinking()
        for kind, field, piece in self._reader.finish():
            await self._tell(kind, field, piece)
        for name in self._thoughts:
            # Asked to think by itself, the model wrote its reasoning as text; DSPy would drop it.
            if values.get(name) is None and name in self._done:
                values[name] = dspy.Reasoning(content=self._so_far(name))
        wanted = {name: value_text(values.get(name)) for name in self._fields}
        told = {name: self._so_far(name) for name in wanted}
        if not all(
            text == told[name] if name in self._done else text.startswith(told[name])
            for name, text in wanted.items()
        ):
            await self.take_back()
            told = dict.fromkeys(wanted, "")
        for name, text in wanted.items():
            if rest := text[len(told[name]) :]:
                await self._tell(Kind.DELTA, name, rest)
            if name not in self._done:
                await self._tell(Kind.DONE, name, "")
        await self._listener.answered(values)

    def _so_far(self, field: str) -> str:
        return "".join(self._told.get(field, ()))


def is_text(annotation: Any) -> bool:
    """Whether a field's value is the very text that the model wrote for it."""
    if annotation is str or annotation is dspy.Reasoning:
        return True
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return str in kinds and type(None) in kinds


def value_text(value: Any) -> str:
    """A field's value as its deltas joined: a text as it is, None as nothing, everything else as JSON (but
    what is a string in JSON without its quotes)."""
    if value is None or type(value) is str:
        return clean(value or "")
    encoded = encode_plain(plain(to_plain(value), MAX_DEPTH)).decode()
    if encoded == "null":  # what JSON has no number for
        return ""
    return str(json.loads(encoded)) if encoded.startswith('"') else encoded


def _reader(adapter: Adapter, fields: Mapping[str, Any], texts: set[str], *, prose: bool) -> Reader:
    if isinstance(adapter, JSONAdapter):
        return JsonReader(fields, texts, _whole(fields, json.loads), prose=prose)
    kind = XmlReader if isinstance(adapter, XMLAdapter) else ChatReader
    return kind(fields, texts, _whole(fields, str), prose=prose)


def _whole(fields: Mapping[str, Any], read: Callable[[str], Any]) -> Whole:
    def whole(field: str, written: str) -> str | None:
        try:
            return value_text(parse_value(read(written), fields[field]))
        except Exception:  # noqa: BLE001 - types may raise anything; the adapter will tell the host
            return None

    return whole
