"""How a worker ends: drained, aborted, recycled, or because its host is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from bridge.options import ServeOptions
from bridge.telemetry import Stats, rss_bytes
from bridge.worker.outbox import Outbox
from bridge.worker.scheduler import Scheduler
from bridge.worker.watcher import exit_when_overdue

log = logging.getLogger("bridge.worker")

#: How long the last chunks may take to be read after an abort or past the grace.
LAST_WORDS_S: Final = 0.4
#: How long handlers may clean up when the host is gone.
CLEAN_UP_S: Final = 0.05
#: How often a long-running stream's memory is looked at when there is a limit for it.
RSS_CHECK_S: Final = 2.0


class Exit(IntEnum):
    """The process's exit codes."""

    OK = 0
    USAGE = 2
    HOST_GONE = 3
    INTERNAL = 70


class Lifecycle:
    """Decides when the worker stops and with which words. Loop thread only, but for ``request_*``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ServeOptions,
        outbox: Outbox,
        scheduler: Scheduler,
        stats: Stats,
        stop: Callable[[Exit], None],
    ) -> None:
        self._loop = loop
        self._options = options
        self._outbox = outbox
        self._scheduler = scheduler
        self._stats = stats
        self._stop = stop
        self._reason: str | None = None
        self._ending = False
        self._host_gone = False
        self._grace: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the recycling limits that time brings."""
        if self._options.max_age_s is not None:
            self._loop.call_later(self._options.max_age_s, self._aged)
        if self._options.max_rss_mb is not None:
            self._check_rss()

    def _aged(self) -> None:
        if self._reason is None:
            self.drain("recycle")

    # ---- reasons to end ------------------------------------------------------------------------

    def input_ended(self) -> None:
        """stdin is at its end: finish what was admitted. Whoever reads stdout may take his time."""
        self._scheduler.input_ended()
        self._begin("eof", None)

    def drain(self, reason: str, grace_s: float | None = None) -> None:
        """Admit nothing more, finish what was admitted, abort what is left after the grace."""
        self._begin(reason, self._options.grace_ms / 1000 if grace_s is None else grace_s)

    def shutdown(self, mode: str, grace_s: float | None) -> None:
        """The ``shutdown`` control."""
        if mode == "abort":
            self.abort("shutdown")
        else:
            self.drain("shutdown", grace_s)

    def abort(self, reason: str) -> None:
        """Cancel everything and end; the exit code is still 0: it was asked for."""
        self._scheduler.draining = True
        self._reason = self._reason or reason
        self._scheduler.end_all()
        self._loop.call_later(LAST_WORDS_S, self._leave)
        self.request_ended()

    def host_gone(self, why: str = "nobody reads stdout any more") -> None:
        """The host is gone: end at once, with a moment for handlers to clean up."""
        if self._host_gone:
            return
        self._host_gone = True
        log.warning("%s: the worker ends", why)
        self._ending = True
        self._scheduler.draining = True
        exit_when_overdue(Exit.HOST_GONE)
        self._scheduler.end_all()
        self._loop.call_later(CLEAN_UP_S, self._leave)

    def signalled(self, count: int) -> None:
        """SIGTERM or SIGINT: the first drains, the second aborts."""
        if count == 1:
            if self._reason != "eof":
                self.drain("signal")
        else:
            self.abort("signal")

    # ---- from the watcher's thread -------------------------------------------------------------

    def broken_from_thread(self) -> None:
        """stdout is broken; the process ends within a second even if the loop is stuck."""
        exit_when_overdue(Exit.HOST_GONE)
        self._loop.call_soon_threadsafe(self.host_gone)

    def orphaned_from_thread(self, stdin_is_open: bool) -> None:
        """The parent has ended; with stdin at its end its requests are still worth finishing."""
        if stdin_is_open:
            exit_when_overdue(Exit.HOST_GONE)
            self._loop.call_soon_threadsafe(self.host_gone, "the parent process has ended")

    def signal_from_thread(self, count: int) -> None:
        """A signal arrived; the second one ends the process even if the loop is stuck."""
        if count > 1:
            exit_when_overdue(Exit.OK, LAST_WORDS_S + 0.3)
        self._loop.call_soon_threadsafe(self.signalled, count)

    # ---- the end -------------------------------------------------------------------------------

    def request_accepted(self) -> None:
        """A request was taken in: was it the last one before recycling?"""
        limit = self._options.max_requests
        if limit is not None and self._reason is None and self._stats.accepted >= limit:
            self.drain("recycle")

    def request_ended(self) -> None:
        """A request has ended: was it the last one of a drain?"""
        if self._reason is not None and not self._ending and not len(self._scheduler.sessions):
            self._ending = True
            self._scheduler.closed = True
            self._scheduler.announce({"type": "bye", "reason": self._reason})
            self._outbox.when_empty(self._leave)

    def _begin(self, reason: str, grace_s: float | None) -> None:
        self._scheduler.draining = True
        if self._reason is None:
            self._reason = reason
        if grace_s is not None:
            timer = self._loop.call_later(grace_s, self._grace_over)
            if self._grace is not None:  # of two ends the earlier one holds
                later = max(timer, self._grace, key=lambda handle: handle.when())
                later.cancel()
                timer = min(timer, self._grace, key=lambda handle: handle.when())
            self._grace = timer
        self.request_ended()

    def _grace_over(self) -> None:
        log.warning("the grace is over: what still runs is cancelled")
        self.abort(self._reason or "shutdown")

    def _leave(self) -> None:
        self._stop(Exit.HOST_GONE if self._host_gone else Exit.OK)

    def _check_rss(self) -> None:
        limit = self._options.max_rss_mb
        if limit is not None and self._reason is None:
            if rss_bytes() > limit * 2**20:
                log.warning("over max_rss_mb (%d MB): recycling", limit)
                self.drain("recycle")
            else:
                self._loop.call_later(RSS_CHECK_S, self._check_rss)
