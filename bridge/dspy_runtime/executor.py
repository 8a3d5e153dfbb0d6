"""The loop's default executor: DSPy's own small steps run at once, everything else in threads.

DSPy sends four to six little functions per LM call through ``asyncio.to_thread``. Each costs a thread
switch of some 60 µs for work of 5 to 50 µs. Those that neither read files nor look up names are run where
they are awaited.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

THREADS = max(8, min(32, (os.cpu_count() or 1) * 4))


class InlineExecutor(ThreadPoolExecutor):
    """A thread pool that answers some submissions with an asyncio future that is already done.

    ``loop.run_in_executor`` hands such a future on as it is, so that awaiting it costs nothing.

    ``inline`` maps a function, as it is passed to ``asyncio.to_thread``, to a test of its positional and
    keyword arguments: does this very call only compute?
    """

    def __init__(self, inline: dict[Any, Callable[..., bool]], max_workers: int = THREADS) -> None:
        super().__init__(max_workers, thread_name_prefix="blocking")
        self._inline = inline

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if isinstance(fn, partial) and not args and not kwargs and self._only_computes(fn):
            done: Future[Any] = _run(fn)
            return done
        return super().submit(fn, *args, **kwargs)

    def _only_computes(self, call: partial[Any]) -> bool:
        # asyncio.to_thread submits partial(Context.run, function, *args, **kwargs)
        if not call.args:
            return False
        function = call.args[0]
        test = self._inline.get(getattr(function, "__func__", function))
        if test is None:
            return False
        owner = getattr(function, "__self__", None)
        arguments = call.args[1:] if owner is None else (owner, *call.args[1:])
        return test(*arguments, **call.keywords)


class FirstInThread:
    """A test that is false for the first call on each object: what that sets up may read files."""

    def __init__(self, allowed: Callable[[Any], bool] = lambda owner: True) -> None:
        self._allowed = allowed
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, owner: Any, *args: Any, **kwargs: Any) -> bool:
        if not self._allowed(owner):
            return False
        if owner in self._seen:
            return True
        self._seen.add(owner)
        return False


def install(loop: asyncio.AbstractEventLoop, inline: dict[Any, Callable[..., bool]]) -> None:
    """Make an :class:`InlineExecutor` the loop's default executor (once a loop)."""
    if loop not in _installed:
        _installed.add(loop)
        loop.set_default_executor(InlineExecutor(inline))


_installed: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def _run(call: partial[Any]) -> Any:
    future = asyncio.get_running_loop().create_future()
    try:
        future.set_result(call())
    except StopIteration as error:
        future.set_exception(RuntimeError(f"the call raised {error!r}"))
    except Exception as error:  # noqa: BLE001 - whoever awaits it gets it
        future.set_exception(error)
    return future
