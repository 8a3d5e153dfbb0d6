"""Answers in the formats of OpenAI's chat completions, Anthropic's messages, Gemini and Ollama.

Ollama's is that of its OpenAI-compatible endpoint, the one that DSPy's own engine uses: chat completions with
a few habits of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from tests.support.provider_replies import Reply
from tests.support.provider_requests import Recorded

#: What an event holds; "frame" for those around the contents, "end" for those after them.
Kind = Literal["frame", "reasoning", "text", "call", "end"]
#: The kinds that come at the pace of tokens.
TOKENS = ("reasoning", "text", "call")


class Event(NamedTuple):
    """An event of a stream as its bytes."""

    kind: Kind
    data: bytes


class Format(Protocol):
    """How a provider puts a reply."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every answer."""

    def body(self, request: Recorded, reply: Reply) -> dict[str, Any]:
        """The whole answer, for a request that is not streamed."""

    def events(self, request: Recorded, reply: Reply) -> Iterator[Event]:
        """The answer as a stream."""

    def error(self, reply: Reply) -> dict[str, Any]:
        """The body of a failure."""


def format_of(path: str) -> Format:
    """The format that is spoken at a path; chat completions where nothing else is."""
    path = path.partition("?")[0]
    if path.startswith(OLLAMA_ROOT + "/"):
        return OLLAMA
    if path.endswith("/messages"):
        return ANTHROPIC
    if path.endswith((":generateContent", ":streamGenerateContent")):
        return GEMINI
    return OPENAI


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _halves(text: str) -> tuple[str, str]:
    """Arguments come in several pieces, broken anywhere."""
    return text[: len(text) // 2], text[len(text) // 2 :]


class _OpenAI:
    headers: Mapping[str, str] = {"x-request-id": "req-test"}
    reasoning_field = "reasoning_content"
    extra: Mapping[str, Any] = {}

    def _frame(self, request: Recorded, kind: str) -> dict[str, Any]:
        frame = {"id": f"chatcmpl-{request.number}", "object": kind, "created": 1, "model": request.model}
        return {**frame, **self.extra}

    def _calls(self, request: Recorded, reply: Reply) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{request.number}_{index}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(args)},
            }
            for index, (name, args) in enumerate(reply.tool_calls)
        ]

    def body(self, request: Recorded, reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply.whole}
        if reply.reasoning is not None:
            message[self.reasoning_field] = reply.reasoning
        if reply.tool_calls:
            message |= {"content": reply.whole or None, "tool_calls": self._calls(request, reply)}
        choices = [{"index": 0, "message": message, "finish_reason": _openai_finish(reply)}]
        return {**self._frame(request, "chat.completion"), "choices": choices, "usage": _openai_usage(reply)}

    def events(self, request: Recorded, reply: Reply) -> Iterator[Event]:
        frame = self._frame(request, "chat.completion.chunk")
        with_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        if with_usage:
            frame["usage"] = None

        def chunk(kind: Kind, delta: dict[str, Any], finish: str | None = None) -> Event:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            return _data(kind, {**frame, "choices": choices})

        yield from self._deltas(request, reply, chunk)
        if with_usage:
            yield _data("end", {**frame, "choices": [], "usage": _openai_usage(reply)})
        yield Event("end", b"data: [DONE]\n\n")

    def _deltas(self, request: Recorded, reply: Reply, chunk: Any) -> Iterator[Event]:
        yield chunk("frame", {"role": "assistant", "content": ""})
        for token in reply.reasoning_tokens:
            yield chunk("reasoning", {self.reasoning_field: token})
        for token in reply.text_tokens:
            yield chunk("text", {"content": token})
        for index, call in enumerate(self._calls(request, reply)):
            function = call["function"]
            opened = {**call, "function": {**function, "arguments": ""}}
            yield chunk("frame", {"tool_calls": [{"index": index, **opened}]})
            for piece in _halves(function["arguments"]):
                yield chunk("call", {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk("end", {}, _openai_finish(reply))

    def error(self, reply: Reply) -> dict[str, Any]:
        assert reply.error is not None
        kind = "server_error" if reply.status >= 500 else "invalid_request_error"
        if reply.status == 429:
            code = reply.error.get("code")
            kind = code if code == "insufficient_quota" else "requests"
        return {"error": {**reply.error, "type": kind, "param": None}}


class _Ollama(_OpenAI):
    headers: Mapping[str, str] = {}
    reasoning_field = "reasoning"
    extra: Mapping[str, Any] = {"system_fingerprint": "fp_ollama"}

    def _deltas(self, request: Recorded, reply: Reply, chunk: Any) -> Iterator[Event]:
        """All deltas have a role and a content; a tool call comes in one piece."""
        same = {"role": "assistant", "content": ""}
        for token in reply.reasoning_tokens:
            yield chunk("reasoning", {**same, "reasoning": token})
        for token in reply.text_tokens:
            yield chunk("text", {**same, "content": token})
        for index, call in enumerate(self._calls(request, reply)):
            yield chunk("call", {**same, "tool_calls": [{**call, "index": index}]})
        yield chunk("end", same, _openai_finish(reply))

    def error(self, reply: Reply) -> dict[str, Any]:
        assert reply.error is not None
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(reply.status, "api_error")
        return {"error": {"message": reply.error["message"], "type": kind, "param": None, "code": None}}


class _Anthropic:
    headers: Mapping[str, str] = {"request-id": "req-test"}
    #: By status; any other is an ``api_error``.
    errors: Mapping[int, str] = {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }

    def _message(self, request: Recorded, content: list[dict[str, Any]]) -> dict[str, Any]:
        frame = {"id": f"msg_{request.number}", "type": "message", "role": "assistant"}
        return {
            **frame,
            "model": request.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self, inputs: int, outputs: int) -> dict[str, int]:
        return {
            "input_tokens": inputs,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": outputs,
        }

    def _blocks(self, request: Recorded, reply: Reply) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if reply.reasoning is not None:
            blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": "c2lnbmVk"})
        if reply.whole or not reply.tool_calls:
            blocks.append({"type": "text", "text": reply.whole})
        for index, (name, args) in enumerate(reply.tool_calls):
            ident = f"toolu_{request.number}_{index}"
            blocks.append({"type": "tool_use", "id": ident, "name": name, "input": args})
        return blocks

    def body(self, request: Recorded, reply: Reply) -> dict[str, Any]:
        message = self._message(request, self._blocks(request, reply))
        stop = "tool_use" if reply.tool_calls else "end_turn"
        return {**message, "stop_reason": stop, "usage": self._usage(*reply.usage)}

    def events(self, request: Recorded, reply: Reply) -> Iterator[Event]:
        message = {**self._message(request, []), "usage": self._usage(reply.usage[0], 1)}
        yield _named("frame", {"type": "message_start", "message": message})
        for index, block in enumerate(self._blocks(request, reply)):
            yield from self._block(index, block, reply)
            if not index:
                yield _named("frame", {"type": "ping"})
        stop = {"stop_reason": "tool_use" if reply.tool_calls else "end_turn", "stop_sequence": None}
        usage = self._usage(*reply.usage)
        yield _named("end", {"type": "message_delta", "delta": stop, "usage": usage})
        yield _named("end", {"type": "message_stop"})

    def _block(self, index: int, block: dict[str, Any], reply: Reply) -> Iterator[Event]:
        def delta(kind: Kind, name: str, field: str, value: str) -> Event:
            inner = {"type": name, field: value}
            return _named(kind, {"type": "content_block_delta", "index": index, "delta": inner})

        empty: dict[str, Any] = {"thinking": "", "signature": "", "text": "", "input": {}}
        opened = {name: empty.get(name, value) for name, value in block.items()}
        yield _named("frame", {"type": "content_block_start", "index": index, "content_block": opened})
        match block["type"]:
            case "thinking":
                for token in reply.reasoning_tokens:
                    yield delta("reasoning", "thinking_delta", "thinking", token)
                yield delta("frame", "signature_delta", "signature", block["signature"])
            case "text":
                for token in reply.text_tokens:
                    yield delta("text", "text_delta", "text", token)
            case _:
                yield delta("frame", "input_json_delta", "partial_json", "")
                for piece in _halves(json.dumps(block["input"])):
                    yield delta("call", "input_json_delta", "partial_json", piece)
        yield _named("frame", {"type": "content_block_stop", "index": index})

    def error(self, reply: Reply) -> dict[str, Any]:
        assert reply.error is not None
        inner = {"type": self.errors.get(reply.status, "api_error"), "message": reply.error["message"]}
        return {"type": "error", "error": inner, "request_id": "req-test"}


class _Gemini:
    headers: Mapping[str, str] = {}
    errors: Mapping[int, str] = {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }

    def body(self, request: Recorded, reply: Reply) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if reply.reasoning is not None:
            parts.append({"text": reply.reasoning, "thought": True})
        if reply.whole or not reply.tool_calls:
            parts.append({"text": reply.whole})
        return self._chunk(request, reply, parts + self._calls(reply), last=True)

    def events(self, request: Recorded, reply: Reply) -> Iterator[Event]:
        def chunk(kind: Kind, parts: list[dict[str, Any]], *, last: bool = False) -> Event:
            data = _json(self._chunk(request, reply, parts, last=last))
            return Event(kind, f"data: {data}\r\n\r\n".encode())

        for token in reply.reasoning_tokens:
            yield chunk("reasoning", [{"text": token, "thought": True}])
        for token in reply.text_tokens:
            yield chunk("text", [{"text": token}])
        if reply.tool_calls:
            yield chunk("call", self._calls(reply))
        yield chunk("end", [{"text": ""}], last=True)

    def _calls(self, reply: Reply) -> list[dict[str, Any]]:
        """The calls, which have no ids; the first is signed if there was a thought before."""
        calls: list[dict[str, Any]] = [
            {"functionCall": {"name": name, "args": args}} for name, args in reply.tool_calls
        ]
        if calls and reply.reasoning:
            calls[0]["thoughtSignature"] = "c2lnbmVk"
        return calls

    def _chunk(
        self, request: Recorded, reply: Reply, parts: list[dict[str, Any]], *, last: bool
    ) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        inputs, outputs = reply.usage
        usage = {"promptTokenCount": inputs, "totalTokenCount": inputs}
        if last:
            candidate["finishReason"] = "STOP"
            # Thoughts are counted apart from the candidates, and left out when there are none.
            thoughts = min(len(reply.reasoning_tokens), outputs)
            usage |= {"candidatesTokenCount": outputs - thoughts, "totalTokenCount": inputs + outputs}
            if thoughts:
                usage["thoughtsTokenCount"] = thoughts
        frame = {"modelVersion": request.model, "responseId": f"resp-{request.number}"}
        return {"candidates": [candidate], "usageMetadata": usage, **frame}

    def error(self, reply: Reply) -> dict[str, Any]:
        assert reply.error is not None
        status = self.errors.get(reply.status, "UNKNOWN")
        return {"error": {"code": reply.status, "message": reply.error["message"], "status": status}}


def _openai_usage(reply: Reply) -> dict[str, int]:
    inputs, outputs = reply.usage
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}


def _openai_finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _data(kind: Kind, value: dict[str, Any]) -> Event:
    return Event(kind, f"data: {_json(value)}\n\n".encode())


def _named(kind: Kind, value: dict[str, Any]) -> Event:
    return Event(kind, f"event: {value['type']}\ndata: {_json(value)}\n\n".encode())


#: Where Ollama is: its paths are OpenAI's.
OLLAMA_ROOT = "/ollama"
OPENAI: Format = _OpenAI()
OLLAMA: Format = _Ollama()
ANTHROPIC: Format = _Anthropic()
GEMINI: Format = _Gemini()
