"""Small steps run where they are awaited, the rest in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bridge.dspy_runtime.executor import FirstInThread, InlineExecutor, install


class Owner:
    def where(self, *args: Any) -> threading.Thread:
        return threading.current_thread()


def where(*args: Any, fail: bool = False) -> threading.Thread:
    if fail:
        raise LookupError("as told")
    return threading.current_thread()


def on_a_loop(inline: dict[Any, Callable[..., bool]], test: Callable[[], Any]) -> Any:
    async def run() -> Any:
        install(asyncio.get_running_loop(), inline)
        return await test()

    return asyncio.run(run())


def test_what_is_listed_runs_at_once_and_the_rest_in_threads() -> None:
    async def test() -> None:
        main = threading.current_thread()
        assert await asyncio.to_thread(where, 1) is main
        assert await asyncio.to_thread(where, 2) is not main
        assert await asyncio.to_thread(threading.current_thread) is not main
        with pytest.raises(LookupError, match="as told"):
            await asyncio.to_thread(where, 1, fail=True)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, where, 1) is not main

    on_a_loop({where: lambda number, **kwargs: number == 1}, test)


def test_methods_are_listed_by_their_function_and_tested_with_their_object() -> None:
    async def test() -> None:
        main = threading.current_thread()
        one, other = Owner(), Owner()
        for owner in (one, other):
            assert await asyncio.to_thread(owner.where) is not main
            assert await asyncio.to_thread(owner.where) is main

    on_a_loop({Owner.where: FirstInThread()}, test)


def test_context_variables_are_those_of_the_caller() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def read() -> int:
        value = variable.get()
        variable.set(99)
        return value

    async def test() -> None:
        variable.set(5)
        assert await asyncio.to_thread(read) == 5
        assert variable.get() == 5

    on_a_loop({read: lambda: True}, test)


def test_an_owner_that_is_not_allowed_stays_in_threads() -> None:
    first = FirstInThread(lambda owner: isinstance(owner, Owner))
    owner = Owner()
    assert [first(owner), first(owner)] == [False, True]
    assert [first(object()), first(object())] == [False, False]


def test_stop_iteration_does_not_hang_the_caller() -> None:
    def stop() -> None:
        raise StopIteration

    async def test() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.to_thread(stop)

    on_a_loop({stop: lambda: True}, test)


def test_submitting_from_elsewhere_works() -> None:
    executor = InlineExecutor({where: lambda *args: True})
    try:
        assert executor.submit(where).result() is not threading.current_thread()
    finally:
        executor.shutdown()
