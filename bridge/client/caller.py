"""What clients and pools have in common: requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from bridge.client.chunks import Chunk
from bridge.client.link import Link
from bridge.client.request import DEFAULT_CREDIT, Request
from bridge.client.stream import Stream
from bridge.client.tools import Tools


class Caller(ABC):
    """Sends requests to workers."""

    def stream(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        credit: int = DEFAULT_CREDIT,
        tools: Tools | None = None,
        retries: int = 0,
    ) -> Stream:
        """The chunks of a request.

        ``timeout``: seconds for the whole request. ``credit``: how many chunks the worker may be ahead of
        the consumer; large chunks want a small window. ``tools``: functions for the agent, run here.
        ``retries``: how often to send the request again when its worker died before the first chunk.

        Raises:
            ValueError: ``args`` can not be written as JSON, or an option is out of range.
            TypeError: a tool's signature can not be told to a model.
            RequestError: while iterating, when the request ends badly.
        """
        request = Request(command, args, timeout=timeout, credit=credit, tools=tools, retries=retries)
        return Stream(request, self._choose)

    async def call(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        tools: Tools | None = None,
        retries: int = 0,
    ) -> Chunk:
        """The last chunk of a request: the one result of most commands. Options as in :meth:`stream`.

        Raises:
            RequestError: the request ended badly.
        """
        async with self.stream(command, args, timeout=timeout, tools=tools, retries=retries) as stream:
            last: Chunk | None = None
            while chunks := await stream.take():
                last = chunks[-1]
        assert last is not None, "a stream without a last chunk raises"
        return last

    async def configure(self, **args: Any) -> Chunk:
        """Name a language model for later requests: ``configure(lm={"model": …}, name=…, adapter=…)``.

        Raises:
            RequestError: it can not work; nothing is changed.
        """
        return await self.call("configure", args)

    @abstractmethod
    async def _choose(self, deadline: float | None) -> Link:
        """A worker that takes a request now; one may be waited for until ``deadline``, the loop's time."""
