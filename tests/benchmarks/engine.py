"""An LM that answers at once with the same words, for measuring what is around it. Imports DSPy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from dspy import lm15

ANSWER: Final = "[[ ## completion ## ]]\nFrance\n\n[[ ## completed ## ]]"


def _response(request: Any) -> Any:
    usage = lm15.Usage(input_tokens=100, output_tokens=10)
    message = lm15.Message.assistant([lm15.TextPart(ANSWER)])
    return lm15.Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)


class InstantEngine:
    """For DSPy's synchronous calls, which the benchmarks do not make."""

    def complete(self, request: Any) -> Any:
        """The answer."""
        return _response(request)

    def stream(self, request: Any) -> Iterator[Any]:
        """Not there: the benchmarks stream no tokens."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held open."""


class AsyncInstantEngine:
    """For DSPy's asynchronous calls. ``engine`` is what the scripted one is given; it is not used."""

    def __init__(self, engine: object = None) -> None:
        self._engine = engine

    async def complete(self, request: Any) -> Any:
        """The answer."""
        return _response(request)

    def stream(self, request: Any) -> AsyncIterator[Any]:
        """Not there: the benchmarks stream no tokens."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held open."""
