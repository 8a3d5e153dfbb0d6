"""An LM that gives the same words, at once or after a while, to measure what is around it. Imports DSPy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from dspy import lm15

ANSWER: Final = "[[ ## completion ## ]]\nFrance\n\n[[ ## completed ## ]]"


def _response(request: Any) -> Any:
    usage = lm15.Usage(input_tokens=100, output_tokens=10)
    message = lm15.Message.assistant([lm15.TextPart(ANSWER)])
    return lm15.Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)


class InstantEngine:
    """For DSPy's synchronous calls. ``latency_s``: how long an answer takes."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s

    def complete(self, request: Any) -> Any:
        """The answer."""
        if self._latency_s:
            time.sleep(self._latency_s)
        return _response(request)

    def stream(self, request: Any) -> Iterator[Any]:
        """Not there: the benchmarks stream no tokens."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held open."""


class AsyncInstantEngine:
    """For DSPy's asynchronous calls. ``engine`` is what the scripted one is given; it is not used."""

    def __init__(self, engine: object = None, latency_s: float = 0.0) -> None:
        self._engine = engine
        self._latency_s = latency_s

    async def complete(self, request: Any) -> Any:
        """The answer."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return _response(request)

    def stream(self, request: Any) -> AsyncIterator[Any]:
        """Not there: the benchmarks stream no tokens."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held open."""
