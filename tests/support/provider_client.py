"""Calling the test provider through DSPy's own engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bridge.dspy_runtime import loader
from bridge.options import ServeOptions
from tests.support.handlers import native, spec
from tests.support.provider import MODELS, WAIT_S, Provider


class Sink:
    """Takes a stream's chunks: ``dspy.context(send_stream=Sink(), stream_listeners=[])``."""

    def __init__(self) -> None:
        self.deltas: list[Any] = []
        self.finish: list[str] = []
        self.times: list[float] = []
        self._more = asyncio.Event()

    async def send(self, chunk: Any) -> None:
        """What DSPy calls."""
        self.deltas.append(chunk.choices[0].delta)
        self.times.append(time.monotonic())
        if chunk.choices[0].finish_reason:
            self.finish.append(chunk.choices[0].finish_reason)
        self._more.set()

    async def until(self, count: int) -> None:
        """Wait for so many deltas of text."""
        while len(self.text) < count:
            self._more.clear()
            await self._more.wait()

    @property
    def text(self) -> list[str]:
        """The deltas of the text; Gemini's stream ends with an empty one, left out here."""
        return [delta.content for delta in self.deltas if delta.content]

    @property
    def reasoning(self) -> list[str]:
        """The deltas of the reasoning."""
        return [delta.reasoning_content for delta in self.deltas if "reasoning_content" in delta]

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The pieces of the tool calls."""
        return [call for delta in self.deltas for call in delta.get("tool_calls") or []]


def run(
    provider: Provider,
    name: str,
    call: Callable[[Any], Coroutine[Any, Any, Any]],
    sink: Sink | None,
    **lm: Any,
) -> Any:
    """``call(lm)`` with the LM of a provider and an adapter that calls tools natively; streamed to a sink."""
    loader.load(ServeOptions())  # sets DSPy up before it is imported
    import dspy

    from bridge.dspy_runtime.lm_build import build, is_plain

    settings = native(provider.address(name), **{"model": MODELS.get(name), **lm})

    async def main() -> Any:
        model = build(spec(settings), ServeOptions())
        assert is_plain(model), "not through LiteLLM"
        adapter = dspy.ChatAdapter(use_native_function_calling=True)
        try:
            with dspy.context(lm=model, adapter=adapter, send_stream=sink, stream_listeners=[]):
                return await asyncio.wait_for(call(model), WAIT_S)
        finally:
            await model.aclose()

    return asyncio.run(main())
