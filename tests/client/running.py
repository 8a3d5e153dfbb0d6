"""Running client code in tests: a loop with a deadline, and workers that offer the test commands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from bridge.client import RequestError

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[2]
KIT: Final = ("--commands", "tests.support.commands")
SCRIPTED: Final = ("--model", "scripted", "--script", str(ROOT / "examples" / "streaming.script.jsonl"))
#: Seconds any test may take: far more than a healthy client needs on a busy machine.
PATIENCE: Final = 30.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, within :data:`PATIENCE`."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(bounded())


async def fails(work: Coroutine[Any, Any, Any], code: str) -> RequestError:
    """The error that ``work`` ends with, which has this code."""
    with pytest.raises(RequestError) as caught:
        await work
    assert caught.value.code == code, caught.value
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    """Come back when the loop has made ``condition`` true."""
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


def alive(pid: int) -> bool:
    """Whether the process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
