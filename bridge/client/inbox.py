"""What has come for one request and was not taken yet."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Coroutine
from typing import Any

from bridge.client.chunks import Chunk
from bridge.client.errors import RequestError
from bridge.client.tools import Tool


class Inbox:
    """Chunks in order, then the end: well, or with ``error``. Credit bounds how many there are."""

    __slots__ = (
        "_tasks", "chunks", "context", "ended", "error", "next_seq", "request_id", "timer", "tools", "waiter",
    )  # fmt: skip

    def __init__(self, request_id: int, tools: dict[str, Tool], context: contextvars.Context) -> None:
        self.request_id = request_id
        self.tools = tools
        self.context = context
        self.chunks: deque[Chunk] = deque()
        self.next_seq = 0
        self.ended = False
        self.error: RequestError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiter: asyncio.Future[None] | None = None  # of the consumer, who has taken everything
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Tell the consumer, if it waits, that there is something new."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for something new.

        Raises:
            RuntimeError: somebody else waits already.
        """
        if self.waiter is not None:
            raise RuntimeError("the stream is being read by another task")
        waiter = self.waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            if self.waiter is waiter:
                self.waiter = None

    def end(self, error: RequestError | None = None) -> None:
        """No more will come. Tools that still run are stopped: nobody wants their answers."""
        if self.ended:
            return
        self.ended = True
        self.error = error
        if self.timer is not None:
            self.timer.cancel()
        for task in self._tasks:
            task.cancel()
        self.wake()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` for as long as the request does."""
        task = asyncio.get_running_loop().create_task(work, context=self.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
