"""Chunks as a person reads them: each becomes lines of text with a style, whatever shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: Terminal chunks that say the stream ended badly.
BAD_ENDS = frozenset({"error", "cancelled"})

# Control characters a model could use to drive the reader's terminal; newline and tab are harmless.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ENVELOPE = frozenset({"id", "seq", "type", "done"})


class Text(NamedTuple):
    """A piece of text: ``style`` is good, bad, dim, bold or empty; ``end`` is what follows it."""

    text: str
    style: str = ""
    end: str = "\n"


class Reader:
    """Turns the chunks of one request into text, in order.

    With ``progress`` the share of items done is told as lines of its own, once for each percent.
    """

    def __init__(self, *, progress: bool = True) -> None:
        self._progress = progress
        self._percent = -1
        self._token_field: str | None = None

    def read(self, chunk: Mapping[str, Any]) -> Iterator[Text]:
        """What to show for ``chunk``."""
        kind = str(chunk.get("type", "chunk"))
        if kind == "token":
            yield from self._token(chunk)
            return
        streamed = self._token_field is not None
        if streamed:
            self._token_field = None
            yield Text("")
        if kind == "prediction" and streamed and "index" not in chunk:
            return  # its tokens have just been shown
        for text in _READERS.get(kind, _any)(chunk):
            yield text._replace(text=_CONTROLS.sub("", text.text))
        yield from self._share_done(chunk)

    def _token(self, chunk: Mapping[str, Any]) -> Iterator[Text]:
        field = str(chunk.get("field", ""))
        if field != self._token_field:
            if self._token_field is not None:
                yield Text("")
            yield Text(f"{field}: ", "dim", end="")
        self._token_field = field
        yield Text(_CONTROLS.sub("", str(chunk.get("delta", ""))), end="")

    def _share_done(self, chunk: Mapping[str, Any]) -> Iterator[Text]:
        share = chunk.get("progress")
        if not self._progress or not isinstance(share, (int, float)):
            return
        percent = int(share * 100 + 1e-9)
        if percent != self._percent:
            self._percent = percent
            yield Text(f"Progress: {percent}%", "dim")


def value_text(value: Any) -> str:
    """A value of a chunk in one piece of text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fields(values: Any, indent: str = "  ") -> Iterator[Text]:
    """``name: value`` lines; further lines of a value stand under its first."""
    if not isinstance(values, Mapping):
        yield Text(indent + value_text(values))
        return
    for name, value in values.items():
        text = value_text(value).replace("\n", "\n" + indent + "  ")
        yield Text(f"{indent}{name}: {text}")


def _position(chunk: Mapping[str, Any]) -> str:
    index, total = chunk.get("index"), chunk.get("total")
    if not isinstance(index, int):
        return ""
    return f"[{index + 1}/{total}] " if total is not None else f"[{index + 1}] "


def _prediction(chunk: Mapping[str, Any]) -> Iterator[Text]:
    yield from _outcome(f"{_position(chunk)}Completed:", chunk.get("output"))


def _outcome(title: str, output: Any) -> Iterator[Text]:
    """``title`` and the output behind it, below it when it has several fields."""
    if isinstance(output, Mapping) and len(output) == 1:
        yield Text(f"{title} {value_text(next(iter(output.values())))}", "good")
        return
    yield Text(title, "good")
    yield from _fields(output)


def _error(chunk: Mapping[str, Any]) -> Iterator[Text]:
    title = f"{_position(chunk)}Failed" if "index" in chunk else "Error"
    yield Text(f"{title}: {value_text(chunk.get('error', ''))} ({chunk.get('code', 'unknown')})", "bad")
    details = chunk.get("details")
    if not isinstance(details, Mapping):
        return
    if guesses := details.get("did_you_mean"):
        words = guesses if isinstance(guesses, list) else [guesses]
        yield Text(f"Did you mean {' or '.join(map(str, words))}?")
    if trace := details.get("traceback"):
        yield Text(value_text(trace), "dim")


def _complete(chunk: Mapping[str, Any]) -> Iterator[Text]:
    total, succeeded, failed = (chunk.get(key) for key in ("total", "succeeded", "failed"))
    if total is None:
        yield Text("Done." + _remarks(chunk), "bold")
        yield from _fields({key: value for key, value in chunk.items() if key not in _ENVELOPE | _REMARKED})
        return
    words = f"Done: {succeeded} of {total} completed, {failed} failed"
    yield Text(words + _remarks(chunk), "bad" if failed else "bold")


_REMARKED = frozenset({"elapsed_ms", "usage", "stopped", "scripted"})


def _remarks(chunk: Mapping[str, Any]) -> str:
    """What the last chunk tells besides its result: time, tokens, and whether it is to be believed."""
    text = ""
    if isinstance(elapsed := chunk.get("elapsed_ms"), (int, float)):
        text += f", in {elapsed / 1000:.1f} s"
    usage = chunk.get("usage")
    if isinstance(usage, Mapping) and usage.get("total_tokens"):
        text += f", {usage['total_tokens']} tokens"
    text += "." if text else ""
    if chunk.get("stopped"):
        text += " Stopped: too many errors."
    if chunk.get("scripted"):
        text += " The answers are canned: they come from the scripted model."
    return text


def _cancelled(chunk: Mapping[str, Any]) -> Iterator[Text]:
    by = {"client": "on your request", "shutdown": "by the worker's shutdown"}.get(
        str(chunk.get("reason")), ""
    )
    yield Text(f"Cancelled {by}".rstrip() + ".", "bad")


def _final_answer(chunk: Mapping[str, Any]) -> Iterator[Text]:
    yield Text(f"Answer: {value_text(chunk.get('answer'))}{_scripted(chunk)}", "good")
    output = chunk.get("output")
    if isinstance(output, Mapping) and len(output) > 1:
        yield from _fields(output)


def _scripted(chunk: Mapping[str, Any]) -> str:
    return " (canned: the scripted model)" if chunk.get("scripted") else ""


def _thinking(chunk: Mapping[str, Any]) -> Iterator[Text]:
    yield Text("Answering ..." if chunk.get("status") == "answering" else "Thinking ...", "dim")


def _reasoning_step(chunk: Mapping[str, Any]) -> Iterator[Text]:
    yield Text(f"{chunk.get('step')}. {value_text(chunk.get('content'))}")


def _tool_call(chunk: Mapping[str, Any]) -> Iterator[Text]:
    yield Text(f"Calls {chunk.get('name')} with {value_text(chunk.get('args'))}", "bold")


def _observation(chunk: Mapping[str, Any]) -> Iterator[Text]:
    failed = bool(chunk.get("is_error"))
    yield Text(
        f"{'Tool failed' if failed else 'Got'}: {value_text(chunk.get('content'))}", "bad" if failed else ""
    )


def _restart(_: Mapping[str, Any]) -> Iterator[Text]:
    yield Text("The model's answer was malformed; it is asked again.", "dim")


def _pong(chunk: Mapping[str, Any]) -> Iterator[Text]:
    data = f" {value_text(chunk['data'])}" if "data" in chunk else ""
    yield Text(f"pong{data}", "good")


def _any(chunk: Mapping[str, Any]) -> Iterator[Text]:
    """A result, or a chunk of a command of the user's own: its fields."""
    kind = str(chunk.get("type", "chunk"))
    fields = {key: value for key, value in chunk.items() if key not in _ENVELOPE}
    if kind == "result":
        yield from _fields(fields, "")
    else:
        yield from _outcome(f"{kind}:", fields) if fields else [Text(str(kind), "good")]


_READERS = {
    "prediction": _prediction,
    "error": _error,
    "complete": _complete,
    "cancelled": _cancelled,
    "final_answer": _final_answer,
    "thinking": _thinking,
    "reasoning_step": _reasoning_step,
    "thought": _reasoning_step,
    "tool_call": _tool_call,
    "observation": _observation,
    "restart": _restart,
    "pong": _pong,
}
