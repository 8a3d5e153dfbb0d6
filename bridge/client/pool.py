"""Several workers of one command line, started again when they end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Final

from bridge.client.caller import Caller
from bridge.client.chunks import Chunk
from bridge.client.client import SERVE
from bridge.client.errors import (
    CLOSED,
    SHUTTING_DOWN,
    WORKER_DIED,
    ClientClosed,
    RequestError,
    StartFailed,
)
from bridge.client.link import Link
from bridge.client.process import Options
from bridge.client.request import Request
from bridge.client.stream import Stream
from bridge.client.tools import Tools

_log = logging.getLogger("bridge.client")

#: Seconds before the second restart in a row; doubled up to the longest. The first is at once.
FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 10.0
#: A worker that lived so many seconds had no trouble starting.
STEADY_S: Final = 10.0
#: Seconds a request waits for a worker, and a configuration for all, unless its own timeout is shorter.
WAIT_S: Final = 30.0

# How a worker's first start went.
_Tried = asyncio.Future[RequestError | None]


class _Row:
    """Workers that have failed, one after the other."""

    def __init__(self) -> None:
        self.failures = 0

    def count(self, link: Link, lived: float) -> None:
        """A worker has ended, and took requests for ``lived`` seconds."""
        steady = (link.recycles and link.useful) or lived >= STEADY_S
        self.failures = 0 if steady else self.failures + 1


class Pool(Caller):
    """``workers`` processes behind one client: requests go to the one with the fewest in flight.

    A worker that dies fails its requests (``worker_died``; ``retries`` has them sent again) and is started
    again, with a growing pause when it keeps dying; one that recycles is replaced while it finishes.
    Requests made while no worker is ready wait for one. Other arguments are those of
    :class:`~bridge.client.Client`.
    """

    def __init__(
        self,
        *flags: str | os.PathLike[str],
        workers: int = 2,
        argv: Sequence[str | os.PathLike[str]] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stderr: int | IO[Any] | None = None,
        ready_timeout: float = 30.0,
    ) -> None:
        if workers < 1:
            raise ValueError("a pool has at least one worker")
        self._options = Options(
            argv or (*SERVE, *flags), env=env, cwd=cwd, stderr=stderr, ready_timeout=ready_timeout
        )
        self._size = workers
        self._links: list[Link] = []  # those that take requests, least recently used first
        self._setup: dict[str, dict[str, Any]] = {}  # what was configured, by name
        self._setups = 0  # how often
        self._configuring = asyncio.Lock()
        self._changed = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._all: set[Link] = set()  # those, the ones that are being started, and those that leave
        self._seen_off: set[asyncio.Task[None]] = set()
        self._last_failure = "It is being started."
        self._closed = asyncio.Event()

    # ---- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the workers and wait until one is ready.

        Raises:
            StartFailed: none could be started.
        """
        if self._keepers or self._closed.is_set():
            raise RuntimeError("the pool is started already")
        loop = asyncio.get_running_loop()
        first: list[_Tried] = [loop.create_future() for _ in range(self._size)]
        self._keepers = [loop.create_task(self._keep(tried)) for tried in first]
        try:
            for tried in asyncio.as_completed(first):
                error = await tried
                if error is None:
                    return
            assert error is not None
            raise error
        except BaseException:
            await self.close()
            raise

    async def wait_ready(self, workers: int | None = None) -> None:
        """Wait until so many workers (all unless given) take requests.

        Raises:
            ValueError: there are not so many.
            ClientClosed: the pool is closed, or was not started.
        """
        wanted = self._size if workers is None else workers
        if not 0 <= wanted <= self._size:
            raise ValueError(f"the pool has {self._size} workers")
        while len(self._usable) < wanted:
            await self._next_change()

    async def close(self, *, grace: float = 0.0) -> None:
        """End all workers. Running requests have ``grace`` seconds to end; the rest fail (``closed``)."""
        self._closed.set()
        self._links.clear()
        self._note_change()
        await asyncio.gather(*(link.close(grace) for link in self._all))
        await asyncio.gather(*self._keepers)
        await asyncio.gather(*self._seen_off)

    async def __aenter__(self) -> Pool:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that take requests."""
        return [link.pid for link in self._usable]

    @property
    def in_flight(self) -> int:
        """How many requests run."""
        return sum(link.in_flight for link in self._all)

    @property
    def loads(self) -> dict[int, int]:
        """Running requests by process id of the workers that take more."""
        return {link.pid: link.in_flight for link in self._usable}

    @property
    def _usable(self) -> list[Link]:
        return [link for link in self._links if link.usable]

    # ---- requests ------------------------------------------------------------------------------

    def stream(self, command: str, args: Mapping[str, Any] | None = None, **options: Any) -> Stream:
        """As :meth:`Caller.stream`.

        Raises:
            ValueError: besides, for ``configure``, which is for all workers: use :meth:`configure`.
        """
        if command == "configure":
            raise ValueError("configure is for all workers: use configure() or call()")
        return super().stream(command, args, **options)

    async def call(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        tools: Tools | None = None,
        retries: int = 0,
    ) -> Chunk:
        """As :meth:`Caller.call`; ``configure`` goes to all workers, and to those that are started later.

        Raises:
            RequestError: the request ended badly; a configuration that is refused changes nothing.
        """
        if command != "configure":
            return await super().call(command, args, timeout=timeout, tools=tools, retries=retries)
        async with self._configuring:
            return await self._configure(dict(args or {}), WAIT_S if timeout is None else timeout)

    async def _configure(self, args: dict[str, Any], timeout: float) -> Chunk:
        """Tell all workers, then remember it for the next ones."""
        deadline = asyncio.get_running_loop().time() + timeout
        answer: Chunk | None = None
        while answer is None:  # a worker may end at any moment
            await self._choose(deadline)
            links = self._usable
            told = [_tell(link, args, timeout) for link in links]
            answer = _settled(await asyncio.gather(*told, return_exceptions=True))
        name = args.get("name", "default")
        self._setup[name] = {**self._setup.get(name, {}), **args}
        self._setups += 1
        # Those that have become ready meanwhile did not know of it; from now on they do.
        missed = [_tell(link, args, timeout) for link in self._usable if link not in links]
        await asyncio.gather(*missed, return_exceptions=True)
        return answer

    async def _choose(self, deadline: float | None) -> Link:
        loop = asyncio.get_running_loop()
        limit = loop.time() + WAIT_S if deadline is None else min(deadline, loop.time() + WAIT_S)
        while not (usable := self._usable):
            try:
                async with asyncio.timeout_at(limit):
                    await self._next_change()
            except TimeoutError:
                message = f"No worker is ready. {self._last_failure}"
                raise StartFailed(message, retryable=True) from None
        link = min(usable, key=lambda each: each.in_flight)
        self._links.remove(link)  # to the end: among equals the least recently used comes first
        self._links.append(link)
        return link

    # ---- keeping workers up --------------------------------------------------------------------

    async def _keep(self, tried: _Tried) -> None:
        """Have one worker up until the pool is closed. ``tried`` tells how the first start went."""
        row = _Row()
        while not self._closed.is_set():
            await self._run_one(Link(self._options, replaceable=True), tried, row)
            if row.failures > 1:
                await self._pause(min(FIRST_BACKOFF_S * 2 ** min(row.failures - 2, 10), LONGEST_BACKOFF_S))

    async def _run_one(self, link: Link, tried: _Tried, row: _Row) -> None:
        """One worker until it takes no more requests. What became of it is counted in ``row``, as soon as
        that is known."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._all.add(link)
        error: RequestError | None = None
        try:
            await self._bring_up(link)
        except RequestError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - whatever it is, the next start may go better
            error = StartFailed(f"The worker can not be started: {failure}")
        if not tried.done():
            tried.set_result(error)
        if error is not None:
            self._failed(error.message)
        elif not self._closed.is_set():
            self._links.append(link)
            self._note_change()
            await asyncio.shield(link.leaving)
            if link in self._links:
                self._links.remove(link)
        lived = loop.time() - begun
        ending = loop.create_task(self._see_off(link, error is None))
        self._seen_off.add(ending)
        ending.add_done_callback(self._seen_off.discard)
        if error is not None or link.gone.done():
            row.count(link, lived)
        else:  # it refuses requests before it has answered the first
            link.gone.add_done_callback(lambda _: row.count(link, lived))

    async def _bring_up(self, link: Link) -> None:
        """Start a worker and tell it all that was configured, meanwhile included."""
        await link.start()
        known = -1
        while known != self._setups:
            known = self._setups
            for args in list(self._setup.values()):
                await _tell(link, args, self._options.ready_timeout)
        link.useful = False  # until it has done something for somebody

    async def _see_off(self, link: Link, well: bool) -> None:
        """A worker that recycles ends by itself, when its requests have."""
        if well:
            await asyncio.shield(link.gone)
            if not link.recycles:
                self._failed(f"A worker {link.end}.")
        await link.close(0)
        self._all.discard(link)

    def _failed(self, message: str) -> None:
        if not self._closed.is_set():
            self._last_failure = message
            _log.warning("%s", message)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _next_change(self) -> None:
        """Wait until a worker has become ready.

        Raises:
            ClientClosed: none will.
        """
        if not self._keepers and not self._closed.is_set():
            raise ClientClosed("The pool is not started: use `async with`, or start() it.")
        if not self._closed.is_set():
            await self._changed.wait()
        if self._closed.is_set():
            raise ClientClosed("The pool is closed.")

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _tell(link: Link, args: Mapping[str, Any], timeout: float) -> Chunk:
    """Send a ``configure`` to one worker."""
    request = Request("configure", args, timeout=timeout, credit=1, tools=None, retries=0)

    async def choose(_deadline: float | None) -> Link:
        link.check()
        return link

    chunks = await Stream(request, choose).take()
    return chunks[-1]


def _settled(outcomes: list[Chunk | BaseException]) -> Chunk | None:
    """One of the answers, None if there is none. Workers that end meanwhile do not count: others are told.

    Raises:
        RequestError: a worker refused.
    """
    for each in outcomes:
        if isinstance(each, BaseException) and not (
            isinstance(each, RequestError) and each.code in (WORKER_DIED, SHUTTING_DOWN, CLOSED)
        ):
            raise each
    return next((each for each in outcomes if isinstance(each, Chunk)), None)
