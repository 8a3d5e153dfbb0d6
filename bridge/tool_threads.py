"""A thread for each call of a tool that is a plain function: one that never returns holds up no other."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()
_abandoned = 0


def abandoned() -> int:
    """How many threads run on although nobody waits for them any more."""
    return _abandoned


async def run(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What ``function`` gives, called in a thread of its own with this context.

    A thread can not be stopped: when this is cancelled it is left to itself, counted until it ends.

    Raises:
        BaseException: whatever the function raises.
    """
    loop = asyncio.get_running_loop()
    call = _Call(loop, function, arguments)
    threading.Thread(target=contextvars.copy_context().run, args=(call,), name="tool", daemon=True).start()
    try:
        value, error = await call.outcome
    finally:
        call.give_up()
    if error is not None:
        raise error
    return value


class _Call:
    """The thread's part."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        self._loop = loop
        self._function = function
        self._arguments = arguments
        self._ended = False
        self._given_up = False
        # A pair rather than an exception: some exceptions mean something to futures.
        self.outcome: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def __call__(self) -> None:
        try:
            outcome: tuple[Any, BaseException | None] = self._function(**self._arguments), None
        except BaseException as error:  # noqa: BLE001 - whatever it is, the model is told
            outcome = None, error
        global _abandoned
        with _lock:
            self._ended = True
            if self._given_up:
                _abandoned -= 1
                return
        self._loop.call_soon_threadsafe(self._deliver, outcome)

    def give_up(self) -> None:
        """Nobody waits any more."""
        global _abandoned
        with _lock:
            if not self._ended:
                self._given_up = True
                _abandoned += 1

    def _deliver(self, outcome: tuple[Any, BaseException | None]) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
