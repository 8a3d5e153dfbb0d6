"""The scheduling of a batch, without DSPy."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest

from bridge.dspy_runtime.batch import MIN_LOOK_AHEAD, TICK_S, WINDOW, Batch, Outcome, Turns
from bridge.errors import BridgeError


class Work:
    """Items that end when they are told to; ``begun`` in order of start."""

    def __init__(
        self, fails: Callable[[int], bool] = lambda index: False, held: frozenset[int] = frozenset()
    ) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.running = 0
        self.most = 0
        self.release = asyncio.Event()
        self._fails = fails
        self._held = held

    async def worker(self, batch: Batch) -> None:
        while (index := await batch.next_index()) is not None:
            self.begun.append(index)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                if index in self._held:
                    await self.release.wait()
                else:
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.cancelled.append(index)
                raise
            finally:
                self.running -= 1
            error = BridgeError("no") if self._fails(index) else None
            batch.finish(Outcome(index, {}, output={}, error=error))


async def _indices(batch: Batch, work: Work) -> list[int]:
    return [outcome.index async for outcome in batch.run(work.worker)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("total", "concurrency"), [(0, 4), (1, 4), (5, 1), (300, 7), (1000, 1024)])
def test_every_item_comes_out_once(total: int, concurrency: int, ordered: bool) -> None:
    async def run() -> None:
        work = Work()
        found = await _indices(Batch(total, concurrency, ordered=ordered), work)
        assert sorted(found) == list(range(total))
        if ordered:
            assert found == list(range(total))
        assert work.most <= concurrency

    asyncio.run(run())


def test_a_prefix_streams_before_later_items_end() -> None:
    async def run() -> None:
        work = Work(held=frozenset({3}))
        stream = Batch(4, 4, ordered=True).run(work.worker)
        assert [(await anext(stream)).index for _ in range(3)] == [0, 1, 2]
        work.release.set()
        assert (await anext(stream)).index == 3

    asyncio.run(run())


def test_in_completion_order_a_slow_item_holds_up_nobody() -> None:
    async def run() -> None:
        work = Work(held=frozenset({0}))
        stream = Batch(200, 2, ordered=False).run(work.worker)
        assert [(await anext(stream)).index for _ in range(199)] == list(range(1, 200))
        work.release.set()
        assert (await anext(stream)).index == 0

    asyncio.run(run())


def test_a_host_that_does_not_read_stops_the_calls() -> None:
    async def run() -> None:
        work = Work()
        stream = Batch(10_000, 8, ordered=True).run(work.worker)
        await anext(stream)
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(work.begun) <= 1 + WINDOW + 8
        assert work.running == 0
        assert len([outcome async for outcome in stream]) == 9_999

    asyncio.run(run())


def test_a_stuck_first_item_bounds_what_is_kept_behind_it() -> None:
    async def run() -> None:
        work = Work(held=frozenset({0}))
        batch = Batch(10_000, 2, ordered=True)
        taking = asyncio.ensure_future(_indices(batch, work))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(work.begun) <= MIN_LOOK_AHEAD + 3
        work.release.set()
        assert await taking == list(range(10_000))

    asyncio.run(run())


@pytest.mark.parametrize("ordered", [True, False])
def test_max_errors_cancels_the_rest(ordered: bool) -> None:
    async def run() -> None:
        work = Work(fails=lambda index: index in (4, 6), held=frozenset({2}))
        batch = Batch(1000, 4, ordered=ordered, max_errors=2)
        found = await _indices(batch, work)
        assert batch.stopped
        assert 2 not in found
        assert 2 in work.cancelled
        assert sorted([*work.cancelled, *found]) == sorted(work.begun)
        assert {4, 6} <= set(found)
        assert found == sorted(found)
        assert work.running == 0

    asyncio.run(run())


def test_max_errors_reached_on_the_last_item() -> None:
    async def run() -> None:
        batch = Batch(3, 1, ordered=True, max_errors=1)
        assert await _indices(batch, Work(fails=lambda index: index == 2)) == [0, 1, 2]
        assert batch.stopped

    asyncio.run(run())


def test_a_thousand_ready_workers_leave_the_loop_to_others() -> None:
    async def instant(batch: Batch) -> None:
        while (index := await batch.next_index()) is not None:
            begun.append(index)
            batch.finish(Outcome(index, {}, output={}))

    async def watch() -> None:
        while True:
            seen.append((time.perf_counter(), len(begun)))
            await asyncio.sleep(0)

    async def run() -> None:
        watching = asyncio.ensure_future(watch())
        assert len([outcome async for outcome in Batch(2000, 1000, ordered=False).run(instant)]) == 2000
        watching.cancel()

    begun: list[int] = []
    seen: list[tuple[float, int]] = []
    asyncio.run(run())
    ticks = sorted(after[0] - before[0] for before, after in itertools.pairwise(seen) if after[1] > before[1])
    assert ticks[len(ticks) // 2] < 3 * TICK_S, "the median: a busy machine may hold up some"


def test_leaving_early_cancels_what_runs() -> None:
    async def run() -> None:
        work = Work(held=frozenset(range(1, 5)))
        stream = Batch(5, 5, ordered=True).run(work.worker)
        await anext(stream)
        await stream.aclose()
        assert sorted(work.cancelled) == [1, 2, 3, 4]
        assert work.running == 0

    asyncio.run(run())


def test_a_broken_worker_ends_the_batch_instead_of_hanging_it() -> None:
    async def broken(batch: Batch) -> None:
        await batch.next_index()
        raise RuntimeError("broken")

    async def cancelled(batch: Batch) -> None:
        raise asyncio.CancelledError

    async def run(worker: Callable[[Batch], Awaitable[None]]) -> None:
        async for _ in Batch(5, 2, ordered=True).run(worker):
            pass

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(run(broken))
    with pytest.raises(BridgeError, match="cancelled"):
        asyncio.run(run(cancelled))


class Steps:
    """A clock on which a task's step takes one second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _ticks(tasks: int, seconds: float, each: int, *, waits: bool) -> list[int]:
    """Turns taken in each tick by so many tasks that take ``each`` of them, and wait after each or not."""
    taken: list[int] = []
    clock = Steps()
    turns = Turns(seconds, clock)

    async def task() -> None:
        for _ in range(each):
            await turns.take()
            clock.now += 1
            taken[-1] += 1
            if waits:
                for _ in range(5):
                    await asyncio.sleep(0)

    async def run() -> None:
        running = [asyncio.ensure_future(task()) for _ in range(tasks)]
        while not all(one.done() for one in running):
            taken.append(0)
            await asyncio.sleep(0)

    asyncio.run(run())
    return taken


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("tasks", "each"), [(1, 50), (3, 20), (100, 1), (100, 5)])
def test_a_tick_has_so_many_turns_and_all_are_had(tasks: int, each: int, waits: bool) -> None:
    taken = _ticks(tasks, 8, each, waits=waits)
    assert sum(taken) == tasks * each
    assert max(taken) <= 2 * 8  # the loop's tick may begin in the middle of one of theirs
    if tasks == 100:
        busy = taken[: len(taken) - taken[::-1].index(max(taken))]
        assert sum(busy) / len(busy) >= 3, "tasks that wait are let in several at a time"


def test_turns_longer_than_a_tick() -> None:
    taken = _ticks(20, 0.1, 3, waits=False)
    assert (sum(taken), max(taken)) == (60, 1)


def test_those_who_give_up_hold_up_nobody() -> None:
    async def run() -> None:
        turns = Turns(1, clock := Steps())
        for _ in range(2):
            await turns.take()
            clock.now += 0.5
        waiting = [asyncio.ensure_future(turns.take()) for _ in range(10)]
        await asyncio.sleep(0)
        for one in waiting[:9]:
            one.cancel()
        await asyncio.wait_for(waiting[9], 5)
        await asyncio.wait_for(turns.take(), 5)

    asyncio.run(run())
