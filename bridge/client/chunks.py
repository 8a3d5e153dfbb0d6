"""Chunks as Python sees them: the decoded object itself, with its documented fields as attributes.

A chunk is a ``dict`` that holds everything the worker wrote, so that fields and types of newer workers and
of one's own commands are never lost. The classes add names and types for editors, type checkers and
``match``; they check nothing.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

Usage = dict[str, int]


class Chunk(dict[str, Any]):
    """Any chunk: ``chunk["total"]`` and ``chunk.total`` are the same.

    ``seq`` counts a request's chunks from 0. A field named like a method of ``dict`` (``items``, ``values``)
    is only there as ``chunk["items"]``. Fields that a class gives a default are that when absent. ``copy()``
    and ``|`` give a plain ``dict``.
    """

    __slots__ = ()

    _absent: ClassVar[dict[str, Any]] = {"done": False, "scripted": False}

    id: int
    seq: int
    done: bool
    scripted: bool
    if TYPE_CHECKING:
        type: str
    else:
        type = property(itemgetter("type"))  # a fifth of __getattr__'s time, and every loop asks for it

    def __init_subclass__(cls) -> None:
        # Defaults must not stay class attributes: those would be found before the field itself.
        names = [name for name in cls.__annotations__ if name in cls.__dict__]
        cls._absent = cls._absent | {name: cls.__dict__[name] for name in names}
        for name in names:
            delattr(cls, name)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            pass
        try:
            return self._absent[name]
        except KeyError:
            raise AttributeError(f"the {self.get('type')!r} chunk has no field {name!r}") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"


class Prediction(Chunk):
    """An item's output (``index``, ``total``, ``input``, ``progress`` from 0 to 1), or the one there is."""

    __slots__ = ()
    output: dict[str, Any]
    usage: Usage
    index: int | None = None
    total: int | None = None
    input: dict[str, Any] | None = None
    progress: float | None = None


class Failure(Chunk):
    """One item failed, the stream goes on. (An error that ends a request is raised.)"""

    __slots__ = ()
    index: int
    total: int
    input: dict[str, Any]
    error: str
    code: str
    retryable: bool
    progress: float
    usage: Usage | None = None
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


class Complete(Chunk):
    """The end of a batch, or of a command that yields no end of its own (``total`` and the others None)."""

    __slots__ = ()
    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    elapsed_ms: int | None = None
    usage: Usage | None = None
    stopped: bool = False


class Token(Chunk):
    """A piece of an output field. ``step`` only from agents."""

    __slots__ = ()
    field: str
    delta: str
    step: int | None = None


class Restart(Chunk):
    """What was streamed so far, or of this ``step``, is void."""

    __slots__ = ()
    step: int | None = None


class Thinking(Chunk):
    """``status``: ``started`` or ``answering``."""

    __slots__ = ()
    status: str


class ReasoningStep(Chunk):
    """One line of reasoning; ``step`` counts from 1."""

    __slots__ = ()
    step: int
    content: str


class Thought(Chunk):
    """What an agent thinks before it calls tools."""

    __slots__ = ()
    step: int
    content: str


class ToolCall(Chunk):
    """An agent calls a tool; ``host``: the host is to answer."""

    __slots__ = ()
    call_id: str
    name: str
    args: dict[str, Any]
    host: bool = False
    step: int | None = None


class Observation(Chunk):
    """What a tool gave, or why it gave nothing."""

    __slots__ = ()
    step: int
    call_id: str
    name: str
    content: Any
    is_error: bool


class FinalAnswer(Chunk):
    """The end of a chain of thought or of an agent's work (``trajectory``: its steps)."""

    __slots__ = ()
    answer: Any
    output: dict[str, Any]
    full_reasoning: str
    usage: Usage
    trajectory: list[dict[str, Any]] | None = None


class Result(Chunk):
    """The one answer of a command."""

    __slots__ = ()


#: The class of each type; other types are a plain :class:`Chunk`.
KINDS: Final[dict[str, type[Chunk]]] = {
    "prediction": Prediction,
    "error": Failure,
    "complete": Complete,
    "token": Token,
    "restart": Restart,
    "thinking": Thinking,
    "reasoning_step": ReasoningStep,
    "thought": Thought,
    "tool_call": ToolCall,
    "observation": Observation,
    "final_answer": FinalAnswer,
    "result": Result,
}
