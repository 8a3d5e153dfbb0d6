"""Where workers come from: the template, one fork after another, and a pause when they die too soon."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from bridge.family.child import Child, State
from bridge.family.messages import Report
from bridge.family.template_process import TemplateProcess

log = logging.getLogger("bridge.family")

#: The pause before another fork when workers die as soon as they get work: doubled each time.
BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
#: The pause before another try when the system had no process, memory or descriptor left.
SCARCE_S: Final = 1.0
#: A worker that has finished nothing counts as one of a crash loop if it dies younger than this, in
#: seconds: while it works, and while it does not.
YOUNG_S: Final = 10.0
NEWBORN_S: Final = 1.0


class Family(Protocol):
    """What a spawner tells, and the workers that there are."""

    @property
    def children(self) -> Sequence[Child]: ...

    def commands_known(self, report: Report) -> None:
        """The template has loaded the commands."""

    def start_failed(self, code: int) -> None:
        """The template has ended, with the exit code ``code``, before it had loaded the commands."""

    def can_fork(self) -> None:
        """Workers can be forked now."""

    def born(self, child: Child) -> None:
        """``child`` is a process now."""

    def not_born(self, child: Child) -> None:
        """``child`` will be none."""

    def process_ended(self, pid: int, status: int) -> None:
        """A worker has ended with the status that waitpid(2) gave."""


class Spawner:
    """Has the template, starts it anew when it dies, and forks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, template: TemplateProcess, family: Family) -> None:
        self._loop = loop
        self._family = family
        self._template: TemplateProcess | None = template
        self._warm = False
        self._told = False
        self._closed = False
        self._unborn: deque[Child] = deque()
        self._pause: asyncio.TimerHandle | None = None
        self._early_deaths = 0
        self._last_early_death = 0.0
        #: How often the template was started anew.
        self.restarts = 0
        template.attach(loop, self._reported, self._template_ended)

    @property
    def open(self) -> bool:
        """Whether workers can be forked now."""
        return self._warm and self._pause is None and not self._closed

    def fork(self, child: Child) -> None:
        """Make ``child`` a process."""
        self._unborn.append(child)
        if len(self._unborn) == 1:
            self._ask()

    def stop(self) -> None:
        """Fork no more."""
        self._closed = True

    def close(self, wait_s: float) -> None:
        """Let the template go: it ends, and before it what is left of the workers, in ``wait_s`` or so."""
        self._closed = True
        if self._template is not None:
            if (
                not self._warm
            ):  # it imports, and would hear of the end only after that; there are no workers yet
                self._template.kill()
            self._template.close()
            self._template.wait(wait_s)

    def abandon(self, child: Child) -> None:
        """Let ``child`` end by itself, with a moment to clean up: the template ends it if it is stuck.
        Without one it can not have that moment."""
        if not self._warm:
            child.kill()
        child.close()

    # ---- the template --------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._unborn and self._template is not None:
            self._template.fork(self._unborn[0].theirs.fileno())

    def _reported(self, report: Report, pidfd: int | None) -> None:
        if report.commands is not None:
            if not self._told:
                self._told = True
                self._family.commands_known(report)
        elif report.warm is not None:
            self._warm = True
            self._family.can_fork()
        elif report.born is not None:
            child = self._unborn.popleft()
            child.forked(report.born, pidfd)
            self._family.born(child)
            self._ask()
        elif report.not_born is not None:
            self.hold(report.not_born)
            self._forget_unborn()
        elif report.died is not None:
            self._family.process_ended(*report.died)

    def _template_ended(self, code: int) -> None:
        self._template, self._warm = None, False
        self._forget_unborn()
        if self._closed:
            return
        if not self._told:
            self._family.start_failed(code)
            return
        delay = _backoff_s(self.restarts)
        self.restarts += 1
        log.error("the process that forks workers has ended (%s): it is started anew in %.1f s", code, delay)
        self._loop.call_later(delay, self._restart)

    def _restart(self) -> None:
        if self._closed:
            return
        try:
            self._template = TemplateProcess()
        except OSError as error:
            log.error("the process that forks workers can not be started (%s)", error.strerror)
            self._loop.call_later(MAX_BACKOFF_S, self._restart)
            return
        self._template.attach(self._loop, self._reported, self._template_ended)
        for child in self._family.children:
            if child.pidfd is not None:
                self._template.adopt(child.pidfd)

    def _forget_unborn(self) -> None:
        while self._unborn:
            self._family.not_born(self._unborn.popleft())

    # ---- pauses --------------------------------------------------------------------------------

    def hold(self, reason: str | None) -> None:
        """No worker could be made: try again later."""
        log.error("no worker can be started (%s): the next try is in %.1f s", reason, SCARCE_S)
        self._wait(SCARCE_S)

    # ---- crash loops ---------------------------------------------------------------------------

    def work_was_done(self) -> None:
        """A worker has finished a request: this is no crash loop."""
        self._early_deaths = 0

    def note_death(self, child: Child) -> None:
        """``child`` has died. The first is replaced at once; a row of them that did nothing waits longer and
        longer."""
        young = child.catching_up or child.age <= (YOUNG_S if child.load else NEWBORN_S)
        if child.finished or not young or child.born < self._last_early_death:
            return  # of those that were there together only the first counts: the others are no new try
        self._last_early_death = self._loop.time()
        self._early_deaths += 1
        if self._early_deaths > 1 and self._pause is None:
            delay = _backoff_s(self._early_deaths - 2)
            log.error(
                "%d workers in a row have died before they finished a request: the next one starts in %.1f s",
                self._early_deaths,
                delay,
            )
            self._wait(delay)

    def _wait(self, delay: float) -> None:
        if self._pause is None:
            self._pause = self._loop.call_later(delay, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self.open:
            self._family.can_fork()


def lacks_one(children: Sequence[Child], size: int) -> bool:
    """Whether there should be another process: so many workers and a spare one, one more while a worn-out
    worker finishes, and up to twice as many where all of them do: somebody must take what comes."""
    fresh = sum(child.state <= State.SERVING for child in children)
    most = size + 2 if fresh else max(2 * size, size + 2)
    return fresh <= size and len(children) < most


def _backoff_s(times: int) -> float:
    return float(min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(times, 10)))
