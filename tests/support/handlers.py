"""Driving command handlers directly, without a worker around them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from bridge.commands import MODULES
from bridge.context import Context
from bridge.dspy_runtime import loader
from bridge.dspy_runtime.specs import LmSpec
from bridge.options import ServeOptions
from bridge.registry import default, load_module

if TYPE_CHECKING:
    from bridge.dspy_runtime.runtime import Runtime

for _module in MODULES:
    load_module(_module)

T = TypeVar("T")

KEY = "sk-test-0123456789abcdef"


class FakeContext:
    """What handlers use of a :class:`bridge.context.Context`."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.labels: dict[str, Any] = {}
        self.log = logging.getLogger("test")

    def label(self, name: str, value: Any) -> None:
        self.labels[name] = value


class Harness:
    """Runs handlers on a loop of its own, with a runtime that is closed afterwards."""

    def __init__(self, **options: Any) -> None:
        self.options = ServeOptions(**options)
        self.labels: dict[str, Any] = {}

    @property
    def runtime(self) -> Runtime:
        """The runtime of the :meth:`run` that is going on."""
        return loader.load(self.options)

    def run(self, test: Callable[[], Awaitable[T]]) -> T:
        """Await ``test()`` on a new loop."""
        return asyncio.run(self._run(test))

    async def _run(self, test: Callable[[], Awaitable[T]]) -> T:
        loader.load(ServeOptions())  # DSPy itself is set up once a process
        from bridge.dspy_runtime.runtime import Runtime

        before, ready = loader._loading, Future[Runtime]()
        runtime = Runtime(self.options)
        ready.set_result(runtime)
        loader._loading = ready
        try:
            return await test()
        finally:
            await runtime.lms.aclose()
            loader._loading = before

    def stream(self, command: str, args: dict[str, Any]) -> Any:
        """The handler's async generator, or coroutine, for args as they come from the wire."""
        item = default.get(command)
        context = FakeContext(self.options)
        self.labels = context.labels
        return item.call(msgspec.convert(args, item.args_type), cast("Context", context))

    async def chunks(self, command: str, args: dict[str, Any]) -> list[dict[str, Any]]:
        """All chunks, as the wire would have them."""
        stream = self.stream(command, args)
        if not hasattr(stream, "__aiter__"):
            return [plain(await stream)]
        return [plain(chunk) async for chunk in stream]

    def collect(self, command: str, args: dict[str, Any]) -> list[dict[str, Any]]:
        """:meth:`chunks`, on a new loop."""
        return self.run(lambda: self.chunks(command, args))

    def batch(self, items: Iterable[Any], **args: Any) -> list[dict[str, Any]]:
        """``stream_predict_batch`` on a new loop; the signature is ``text -> completion`` unless given."""
        merged = {"signature": "text -> completion", "items": list(items), **args}
        return self.collect("stream_predict_batch", merged)


def plain(chunk: Any) -> dict[str, Any]:
    """A chunk Struct as the object it becomes."""
    return cast("dict[str, Any]", msgspec.to_builtins(chunk, enc_hook=repr))


def scripted(*entries: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """An inline ``scripted`` LM."""
    return {"model": "scripted", "script": list(entries), **settings}


def native(url: str, **settings: Any) -> dict[str, Any]:
    """An inline LM that reaches the provider at ``url``."""
    return {"model": "openai/gpt-4o-mini", "api_base": url, "api_key": KEY, "num_retries": 0, **settings}


def spec(lm: dict[str, Any]) -> LmSpec:
    """The same as a Struct."""
    return msgspec.convert(lm, LmSpec)
