"""Running many items: some at a time, results handed out as they are wanted. Knows nothing of DSPy."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from bridge.errors import BridgeError

#: Results that may wait for the host before no further item is begun.
WINDOW = 32
#: Finished items, per one running, that may wait for an earlier one when results are wanted in order.
LOOK_AHEAD = 8
MIN_LOOK_AHEAD = 64
#: Items that may begin in one tick of the loop: a quarter of a millisecond of DSPy's work each.
TURNS = 4


class Turns:
    """At most ``each`` turns in one tick of the loop; who comes later in it waits for another.

    Most turns are taken without a wait where they are taken one after the other, by tasks that did not have
    to wait in between: such a task goes on, while those that wait are let in one a tick.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._left = each
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False
        self._taken_at_once = True

    async def take(self) -> None:
        """Have a turn."""
        if self._left:
            self._left -= 1
            self._taken_at_once = True
            self._schedule()
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_tick)

    def _next_tick(self) -> None:
        self._scheduled = False
        self._left = self._each
        let_in = 1 if self._taken_at_once else max(1, self._each - 1)
        self._taken_at_once = False
        while self._waiting and let_in:
            waiter = self._waiting.popleft()
            if not waiter.done():  # cancelled meanwhile
                waiter.set_result(None)
                self._left -= 1
                let_in -= 1
        if self._left < self._each:
            self._schedule()


class Outcome(msgspec.Struct):
    """What became of one item: ``output`` or ``error``, and what its LM calls cost."""

    index: int
    usage: dict[str, int]
    output: dict[str, Any] | None = None
    error: BridgeError | None = None


class Batch:
    """``total`` items, at most ``concurrency`` of them running."""

    def __init__(self, total: int, concurrency: int, *, ordered: bool, max_errors: int | None = None) -> None:
        self._total = total
        self._workers = min(total, concurrency)
        self._ordered = ordered
        self._max_errors = max_errors
        self._look_ahead = max(MIN_LOOK_AHEAD, LOOK_AHEAD * concurrency)
        self._begun = 0
        self._errors = 0
        self._next_in_order = 0
        self._ready: deque[Outcome] = deque()
        self._early: dict[int, Outcome] = {}
        self._turns = Turns(TURNS)
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._crash: BaseException | None = None
        #: Whether ``max_errors`` was reached.
        self.stopped = False

    async def run(self, worker: Callable[[Batch], Awaitable[None]]) -> AsyncGenerator[Outcome, None]:
        """Start the workers and yield outcomes until all are out; leaving early cancels what still runs.

        ``worker(batch)`` is to loop over :meth:`next_index` and :meth:`finish`.
        """
        tasks = [asyncio.ensure_future(worker(self)) for _ in range(self._workers)]
        for task in tasks:
            task.add_done_callback(self._worker_ended)
        given = 0
        try:
            while given < self._total:
                if stopping := self.stopped:
                    await _cancel(tasks)
                    self._flush()
                while self._ready:
                    outcome = self._ready.popleft()
                    self._make_room()
                    given += 1
                    yield outcome
                if self._crash is not None:
                    raise self._crash
                if stopping:
                    return
                if given < self._total and not self.stopped:
                    self._news.clear()
                    await self._news.wait()
        finally:
            await _cancel(tasks)

    async def next_index(self) -> int | None:
        """The next item to run, once there is room for its result; None when there is none left."""
        # An LM that answers at once would otherwise never let another request have the loop, nor would a
        # thousand workers that are all ready.
        await self._turns.take()
        while self._begun < self._total and not self.stopped:
            if self._has_room():
                self._begun += 1
                return self._begun - 1
            self._room.clear()
            await self._room.wait()
        return None

    def finish(self, outcome: Outcome) -> None:
        """Hand in what became of an item."""
        if outcome.error is not None:
            self._errors += 1
            if self._max_errors is not None and self._errors >= self._max_errors:
                self.stopped = True
        if self._ordered and outcome.index == self._next_in_order and not self._early:
            self._next_in_order += 1
            self._ready.append(outcome)
        elif self._ordered:
            self._early[outcome.index] = outcome
            while self._next_in_order in self._early:
                self._ready.append(self._early.pop(self._next_in_order))
                self._next_in_order += 1
            self._make_room()
        else:
            self._ready.append(outcome)
        self._news.set()

    def _has_room(self) -> bool:
        return len(self._ready) < WINDOW and len(self._early) < self._look_ahead

    def _make_room(self) -> None:
        if self._has_room():
            self._room.set()

    def _flush(self) -> None:
        """Make what finished ready, although earlier items never will."""
        for index in sorted(self._early):
            self._ready.append(self._early.pop(index))

    def _worker_ended(self, task: asyncio.Future[None]) -> None:
        error = BridgeError("A batch worker was cancelled.") if task.cancelled() else task.exception()
        if error is not None and not self.stopped:
            self._crash = self._crash or error
            self._news.set()


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
