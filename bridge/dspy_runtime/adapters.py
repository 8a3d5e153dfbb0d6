"""DSPy's adapters, with the same output for less work.

A system message depends on the signature alone and is made once; a plain string needs no serializer. Tests
hold every message against the stock adapters'.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import dspy
from dspy.adapters import Adapter, ChatAdapter, JSONAdapter, XMLAdapter
from dspy.adapters.utils import format_field_value
from dspy.signatures.signature import Signature

from bridge.dspy_runtime.streaming import FieldStream
from bridge.wire.fallback import clean

MAX_SYSTEM_MESSAGES = 256


class _Remembered(ChatAdapter):  # type: ignore[misc] # DSPy is untyped
    """System messages by signature, the least recently used dropped first."""

    _system_messages: OrderedDict[Any, str]
    _requirements: OrderedDict[Any, str]

    async def acall(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: Any, inputs: Any
    ) -> list[dict[str, Any]]:
        stream = dspy.settings.send_stream
        if isinstance(stream, FieldStream):
            return await stream.call(self, lm, lm_kwargs, signature, demos, inputs)
        answers: list[dict[str, Any]] = await super().acall(lm, lm_kwargs, signature, demos, inputs)
        return answers

    def _make_json_adapter_fallback(self) -> Adapter:
        return _json_again(self.use_native_function_calling)

    def format_system_message(self, signature: type[Signature]) -> str:
        key = (signature, signature.__doc__)  # instructions can be assigned to
        return _remember(
            self.__dict__.setdefault("_system_messages", OrderedDict()), key, self._system, signature
        )

    def user_message_output_requirements(self, signature: type[Signature]) -> str:
        known = self.__dict__.setdefault("_requirements", OrderedDict())
        return _remember(known, signature, super().user_message_output_requirements, signature)

    def _system(self, signature: type[Signature]) -> str:
        return str(super().format_system_message(signature))


class FastChatAdapter(_Remembered):
    """:class:`dspy.ChatAdapter`, and its ways with strings and integers in user messages."""

    def format_user_message_content(
        self,
        signature: type[Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        messages = [prefix, *_sections(signature, inputs)]
        if main_request:
            messages.append(self.user_message_output_requirements(signature))
        messages.append(suffix)
        return "\n\n".join(messages).strip()


class FastJSONAdapter(_Remembered, JSONAdapter):  # type: ignore[misc] # DSPy is untyped
    """:class:`dspy.JSONAdapter`; its user messages are the chat adapter's."""

    format_user_message_content = FastChatAdapter.format_user_message_content

    def _prepare_response_format(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: type[Signature]
    ) -> None:
        for name, field in signature.output_fields.items():
            if field.annotation is dspy.Reasoning:
                # DSPy has the schema ask for the field although the model's own thoughts will be its value.
                signature = dspy.Reasoning.adapt_to_native_lm_feature(signature, name, lm, {**lm_kwargs})
        super()._prepare_response_format(lm, lm_kwargs, signature)
        # DSPy asks for a plain JSON object where it has no schema; Anthropic's API has no such mode, and the
        # call would be refused. The prompt asks for JSON anyway.
        if lm_kwargs.get("response_format") == {"type": "json_object"} and lm.model.startswith("anthropic/"):
            del lm_kwargs["response_format"]


class FastXMLAdapter(_Remembered, XMLAdapter):  # type: ignore[misc] # DSPy is untyped
    """:class:`dspy.XMLAdapter`."""


def _parse_xml(adapter: Adapter, signature: type[Signature], completion: str) -> dict[str, Any]:
    # Half a character, which some gateways send, is more than the XML parser takes.
    fields: dict[str, Any] = XMLAdapter.parse(adapter, signature, clean(completion))
    return fields


# DSPy wraps format and parse of every subclass anew, so that callbacks would run once per level.
for _fast, _stock in ((_Remembered, ChatAdapter), (FastChatAdapter, ChatAdapter)):
    _fast.format, _fast.parse = _stock.format, _stock.parse
FastJSONAdapter.format, FastJSONAdapter.parse = JSONAdapter.format, JSONAdapter.parse
FastXMLAdapter.format, FastXMLAdapter.parse = XMLAdapter.format, _parse_xml

_CLASSES: dict[str, type[ChatAdapter]] = {
    "chat": FastChatAdapter,
    "json": FastJSONAdapter,
    "xml": FastXMLAdapter,
}
_instances: dict[tuple[str, bool], Adapter] = {}


def adapter(name: str, *, native_tools: bool = False) -> Adapter:
    """The shared adapter ``chat``, ``json`` or ``xml``.

    ``native_tools``: one that offers tools by the LM's own means, if the LM has them. (The JSON adapter
    always does.)

    Raises:
        KeyError: there is none of that name.
    """
    key = (name, native_tools)
    if key not in _instances:
        _instances[key] = (
            _CLASSES[name](use_native_function_calling=True) if native_tools else _CLASSES[name]()
        )
    return _instances[key]


@functools.cache
def _json_again(native_tools: bool) -> Adapter:
    """What asks for JSON when an answer was not in the format it should have been in."""
    return FastJSONAdapter(use_native_function_calling=native_tools)


def _sections(signature: type[Signature], inputs: dict[str, Any]) -> list[str]:
    sections = []
    for name, field in signature.input_fields.items():
        if name in inputs:
            value = inputs[name]
            text = value if type(value) is str else format_field_value(field_info=field, value=value)
            sections.append(f"[[ ## {name} ## ]]\n{text}")
    return sections


def _remember(known: OrderedDict[Any, str], key: Any, make: Any, signature: type[Signature]) -> str:
    if key in known:
        known.move_to_end(key)
        return known[key]
    text = str(make(signature))
    known[key] = text
    if len(known) > MAX_SYSTEM_MESSAGES:
        known.popitem(last=False)
    return text
