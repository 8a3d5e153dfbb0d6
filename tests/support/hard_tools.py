"""Tools for ``--tools tests.support.hard_tools`` that ask much of the worker."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import dspy
from pydantic import Field

_never = threading.Event()


def stuck() -> str:
    """Never answers."""
    _never.wait()
    return "never"


def quick(n: int) -> int:
    """One more."""
    return n + 1


def ask(q: str) -> str:
    """Asks the model itself."""
    return str(dspy.Predict("question -> answer")(question=q).answer)


async def ask_async(q: str) -> str:
    """The same without a thread."""
    prediction = await dspy.Predict("question -> answer").acall(question=q)
    return str(prediction.answer)


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return call


@_decorated
async def wrapped(n: int) -> int:
    """A coroutine function that does not look like one."""
    return n * 2


def at_least_three(n: Annotated[int, Field(ge=3)]) -> int:
    """Takes 3 or more."""
    return n


def trace() -> None:
    """Fails with a stack trace in its text."""
    try:
        raise KeyError("inner")
    except KeyError:
        raise RuntimeError(f"It broke.\n{traceback.format_exc()}") from None
