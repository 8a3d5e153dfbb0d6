"""Running many items: some at a time, results handed out as they are wanted. Knows nothing of DSPy."""

from __future__ import annotations

import asyncio
import time
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
#: Seconds of a tick of the loop in which items may begin; each is a quarter of a millisecond of DSPy's work
#: or more. A tick costs a write, which wakes the host: with fewer items it would be a tenth of the time.
TICK_S = 0.002
#: Items that may begin together, however little the ones before took.
MOST = 16


class Turns:
    """Bounds what begins in one tick of the loop: turns are had at once within ``tick_s`` of its start, later
    ones wait for another tick. So others have the loop after that time and the longest turn.

    Most turns are taken without a wait where they are taken one after the other, by tasks that did not have
    to wait in between: such a task goes on, while those that wait are let in one a tick. Where all wait, as
    many are let in together as the ticks before have shown to fit.
    """

    def __init__(self, tick_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._tick_s = tick_s
        self._clock = clock
        self._ticking = False
        self._began = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken_at_once = False
        self._together = 1

    async def take(self) -> None:
        """Have a turn."""
        if not self._ticking:
            self._begin()
        elif self._clock() - self._began >= self._tick_s:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
            return
        self._taken_at_once = True

    def _begin(self) -> None:
        self._ticking = True
        self._began = self._clock()
        asyncio.get_running_loop().call_soon(self._next_tick)

    def _next_tick(self) -> None:
        self._ticking = False
        left = 1 if self._taken_at_once else self._fitting(self._clock() - self._began)
        self._taken_at_once = False
        while self._waiting and left:
            waiter = self._waiting.popleft()
            if not waiter.done():  # cancelled meanwhile
                waiter.set_result(None)
                left -= 1
                if not self._ticking:
                    self._begin()

    def _fitting(self, took_s: float) -> int:
        """How many may begin together, the last tick having taken ``took_s`` with as many as it had."""
        if took_s > self._tick_s:
            self._together = max(1, self._together // 2)
        elif took_s < self._tick_s / 2:
            self._together = min(MOST, 2 * self._together)
        return self._together


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
        self._turns = Turns(TICK_S)
        self._room = asyncio.Event()
        self._news: asyncio.Future[None] | None = None
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
                    self._news = asyncio.get_running_loop().create_future()
                    await self._news
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
        self._tell()

    def _tell(self) -> None:
        """There is something new: see :meth:`run`."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

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
            self._tell()


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
