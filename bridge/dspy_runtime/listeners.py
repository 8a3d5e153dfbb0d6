"""What the streaming commands tell their host of a predictor's calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from bridge.dspy_runtime.field_readers import Kind
from bridge.dspy_runtime.predictor import REASONING

Emit = Callable[[dict[str, Any]], Awaitable[None]]


class TokenListener:
    """Every delta as a ``token`` chunk, if the host wants ``tokens``."""

    prose = False

    def __init__(self, emit: Emit, *, tokens: bool) -> None:
        self._emit = emit
        self._tokens = tokens
        self.sent: dict[str, int] = {}
        #: What each chunk says besides.
        self.extra: dict[str, Any] = {}

    async def started(self) -> None:
        """A call begins: nothing to tell."""
        self.sent = {}

    async def event(self, kind: Kind, field: str, text: str) -> None:
        """A delta is told."""
        if kind is Kind.DELTA and self._tokens:
            await self.token(field, text)

    def token(self, field: str, text: str) -> Awaitable[None]:
        """Tell a ``token``."""
        self.count(field, text)
        chunk = {"type": "token", "field": field, "delta": text}
        if self.extra:
            chunk |= self.extra
        return self._emit(chunk)

    def count(self, field: str, text: str) -> None:
        """The host is sent ``text`` of ``field``."""
        self.sent[field] = self.sent.get(field, 0) + len(text)

    async def restart(self) -> None:
        """What was told, if anything was, is void."""
        if self.sent:
            self.sent = {}
            await self._emit({"type": "restart", **self.extra})

    async def answered(self, values: dict[str, Any]) -> None:
        """A call is over: nothing to tell."""


class ThoughtListener(TokenListener):
    """A chain of thought: each line of reasoning as a ``reasoning_step``, when it is complete."""

    def __init__(self, emit: Emit, *, tokens: bool) -> None:
        super().__init__(emit, tokens=tokens)
        self._reset()

    def _reset(self) -> None:
        self._lines = Lines()
        self._step = 0
        self._answering = False
        self._thoughts: list[str] = []

    async def started(self) -> None:
        self.sent = {}
        await self._emit({"type": "thinking", "status": "started"})

    async def event(self, kind: Kind, field: str, text: str) -> None:
        if kind is Kind.DELTA and self._tokens:
            await self.token(field, text)
        if kind is Kind.THOUGHT:
            # Native thinking beside a reasoning field: steps of their own, in no field.
            self._thoughts.append(text or "\n\n")
            await self._tell(self._lines.add(text) if text else self._lines.end(), counted=True)
        elif field != REASONING:
            await self._begin_answer()
        elif kind is Kind.DELTA:
            await self._tell(self._lines.add(text))
        else:
            await self._tell(self._lines.end())
            if kind is Kind.DONE:
                await self._begin_answer()

    async def restart(self) -> None:
        if self.sent or self._step or self._answering:
            self._reset()
            await self._emit({"type": "restart"})
            await self.started()
        else:
            self._reset()

    def all_reasoning(self, reasoning: str) -> str:
        """The thoughts that came unasked, and the reasoning field."""
        return "".join(self._thoughts) + reasoning if reasoning else "".join(self._thoughts).strip()

    async def _tell(self, lines: list[str], *, counted: bool = False) -> None:
        for line in lines:
            self._step += 1
            if counted or not self._tokens:
                self.count(REASONING, line)
            await self._emit({"type": "reasoning_step", "step": self._step, "content": line})

    async def _begin_answer(self) -> None:
        if not self._answering:
            self._answering = True
            await self._emit({"type": "thinking", "status": "answering"})


class Lines:
    """Cuts a text that comes in pieces into its non-empty lines, without the white space around them."""

    def __init__(self) -> None:
        self._open: list[str] = []

    def add(self, text: str) -> list[str]:
        """The lines that ``text`` completes."""
        if "\n" not in text:
            self._open.append(text)
            return []
        first, *rest = text.split("\n")
        lines = ["".join([*self._open, first]), *rest[:-1]]
        self._open = [rest[-1]]
        return [line for line in map(str.strip, lines) if line]

    def end(self) -> list[str]:
        """The open line, which is complete as it is."""
        line, self._open = "".join(self._open).strip(), []
        return [line] if line else []
