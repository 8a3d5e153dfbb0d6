"""Looking after workers: do they answer, and are they worn out?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from bridge.family.child import Child, State
from bridge.options import MIB, ServeOptions

log = logging.getLogger("bridge.family")

#: How often life and limits are looked at, at most, in seconds.
TICK_S: Final = 2.0
#: How often it is looked at, in seconds, whether anybody takes requests.
RECALL_S: Final = 0.25


class Watched(Protocol):
    """The workers, and what may be done about them."""

    @property
    def children(self) -> Sequence[Child]: ...

    def ask(self, child: Child, command: str, args: Any, answer: Callable[[Any], None]) -> None: ...

    def retire(self, child: Child) -> None: ...

    def recall(self, child: Child) -> None: ...


class Health:
    """Kills workers whose loop answers nothing for ``hung_after_s``, and retires the worn out one by one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ServeOptions, watched: Watched) -> None:
        self._loop = loop
        self._options = options
        self._watched = watched
        self._tick_s = min(TICK_S, options.hung_after_s / 4)
        self._stuck: list[Child] = []

    def start(self) -> None:
        """Look again and again."""
        self._loop.call_later(self._tick_s, self._tick)
        self._loop.call_later(RECALL_S, self._recall)

    def _tick(self) -> None:
        children = self._watched.children
        for child in children:
            if child.state < State.LEAVING and child.pid is not None:
                self._look_at(child, self._loop.time())
        self._recycle(children)
        self._loop.call_later(self._tick_s, self._tick)

    def _recycle(self, children: Sequence[Child]) -> None:
        """Retire one that is worn out, where that takes nothing from the family: it has nothing to do, or the
        spare worker takes its place."""
        spare = any(child.state is State.SPARE for child in children)
        for child in children:
            if (spare or not child.load) and self._is_worn(child):
                self._watched.retire(child)
                return

    def _recall(self) -> None:
        """Where all are worn out and busy since the last look, and as many as there may be, have one of them
        take requests again, until there is another."""
        children = self._watched.children
        able = [child for child in children if child.state <= State.SERVING]
        stuck = [] if able else [child for child in children if child.state is State.RETIRING]
        if stuck and stuck == self._stuck:
            log.warning("all workers have reached a limit and are busy: one takes requests again")
            self._watched.recall(min(stuck, key=lambda child: child.load))
        self._stuck = stuck
        if any(not child.recalled for child in able):
            for child in able:
                if child.recalled:
                    self._watched.retire(child)
        self._loop.call_later(RECALL_S, self._recall)

    def _look_at(self, child: Child, now: float) -> None:
        if child.stalled:
            return  # it can not be heard while the host does not read
        if child.asked is None:
            if now - child.heard >= self._tick_s:
                child.asked = now
                self._watched.ask(child, "ping", {}, lambda _: None)
        elif now - child.asked >= self._options.hung_after_s:
            log.error("worker %s has not answered for %.1f s: it is killed", child.pid, now - child.heard)
            child.hung = True
            child.kill()

    def _is_worn(self, child: Child) -> bool:
        options = self._options
        if child.state is not State.SERVING or child.recalled:
            return False
        if options.max_age_s is not None and child.age > options.max_age_s:
            return True
        if options.max_rss_mb is None or child.rss_bytes() <= options.max_rss_mb * MIB:
            return False
        if not child.taken:
            log.warning(
                "worker %s has done nothing yet and is over --max-rss-mb %d: the limit is too low",
                child.pid,
                options.max_rss_mb,
            )
        return True
