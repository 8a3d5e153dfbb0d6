"""The workers of a family: choosing one, keeping them alike, replacing those that die or are worn out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bridge.family.child import Child, State
from bridge.family.deaths import Deaths, death
from bridge.family.health import Health
from bridge.family.inflow import DONE, Kind, News
from bridge.family.member import HOST_ENDED
from bridge.family.messages import Report
from bridge.family.shared_state import SharedState
from bridge.family.spawner import Spawner, lacks_one
from bridge.family.template_process import TemplateProcess
from bridge.options import ServeOptions
from bridge.wire.framing import packets_of
from bridge.worker.worker import HURRY_S

if TYPE_CHECKING:
    from bridge.family.relay import FamilyScheduler

log = logging.getLogger("bridge.family")

#: How long, once the first worker is there, requests wait for the others: it would get all of them.
ALL_THERE_S: Final = 0.25

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Crew:
    """``options.workers`` workers. Loop thread only.

    ``on_commands``, ``on_failure``: see :class:`bridge.family.spawner.Family`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ServeOptions,
        scheduler: FamilyScheduler,
        on_commands: Callable[[Report], None],
        on_failure: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._options = options
        self._scheduler = scheduler
        self._outbox = scheduler.outbox
        self._packets = options.framing == "packet4"
        self._on_commands, self.start_failed = on_commands, on_failure
        self._name = f"family-{os.urandom(6).hex()}"
        self._turn = 0
        self.pressure = scheduler.pressure
        self.children: list[Child] = []
        self._dirty: set[Child] = set()
        self._deaths = Deaths(loop, self._end_requests)
        self._all_there = False
        self._host_ended = False
        self._nobody_left = asyncio.Event()
        self.state = SharedState()
        #: A call that sets state is on its way: nothing that came after it may begin.
        self.setting = False
        self._counts = Counter(died=0, hung=0, recycled=0)

    def start(self, template: TemplateProcess) -> None:
        """Begin to have workers."""
        self._spawner = Spawner(self._loop, template, self)
        Health(self._loop, self._options, self).start()

    @property
    def counts(self) -> dict[str, int]:
        """How workers ended: ``died``, ``hung``, ``recycled``; and ``template_restarts``."""
        return {**self._counts, "template_restarts": self._spawner.restarts}

    @property
    def size(self) -> int:
        """How many workers there should be."""
        return self._options.workers

    @property
    def serving(self) -> int:
        """How many workers take requests."""
        return sum(child.state is State.SERVING for child in self.children)

    # ---- choosing ------------------------------------------------------------------------------

    def open(self) -> bool:
        """Whether a worker could take a request."""
        return self._all_there and not self.setting and any(True for _ in self._able())

    def choose(self, key: bytes) -> Child | None:
        """The least busy worker, of equals the one that has waited longest; none that knows ``key``."""
        able = [child for child in self._able() if key not in child.inflow.routes]
        # One that does not end what has ended for the host is stuck: having nothing to do, it would draw all.
        return min(able, key=lambda child: (child.inflow.ghosts > 0, child.load, child.turn), default=None)

    def _able(self) -> Iterator[Child]:
        for child in self.children:
            if child.state is State.SERVING and not child.behind and not child.catching_up:
                yield child

    def took(self, child: Child) -> None:
        """``child`` was given a request."""
        self._turn += 1
        child.turn = self._turn
        child.load += 1
        child.taken += 1
        self._dirty.add(child)
        most = self._options.max_requests
        if most is not None and child.taken >= most and not child.recalled:
            self.retire(child)

    def let_go(self, child: Child) -> None:
        """A request of ``child`` has ended."""
        child.load -= 1
        child.finished += 1
        self._spawner.work_was_done()
        if child.state is State.RETIRING and not child.load:
            self._see_off(child)

    def touch(self, child: Child) -> None:
        """Something was sent to ``child``: it leaves with the next :meth:`flush`."""
        self._dirty.add(child)

    def flush(self) -> None:
        """Write what workers were sent."""
        while self._dirty:
            self._dirty.pop().flush()
        self.pressure.look(self.children)

    def ask(self, child: Child, command: str, args: Any, answer: Callable[[Any], None]) -> None:
        """Make a request of the supervisor's own, see :meth:`Child.ask`."""
        child.ask(command, args, answer, self._name)

    def host_ended(self) -> None:
        """The host can send nothing more."""
        self._host_ended = True
        for child in self.children:
            if child.pid is not None:  # the others are told when they are born
                child.send(HOST_ENDED)
                self._dirty.add(child)
        self.flush()

    # ---- what workers say ----------------------------------------------------------------------

    def relay(self, child: Child, news: News) -> bool:
        """See :class:`bridge.family.child.Home`."""
        outbox = self._outbox
        outbox.buffer += packets_of(news.lines) if self._packets else news.lines
        for route, line in news.ended:
            self._scheduler.relayed(route, line)
        for route, line in news.own:
            if line.endswith(DONE):
                route.owner(_decode(line))
        for line in news.unbound:
            self._heard(child, _decode(line)["type"])
        outbox.flush()  # workers gather what belongs together; another turn of the loop would cost more
        if outbox.full:
            outbox.when_room(child.resume)
            return False
        return True

    def _heard(self, child: Child, what: str) -> None:
        if what == "ready":
            child.ready = True
            self._welcome(child)
        elif what == "retire" and not self._scheduler.draining:
            self.retire(child)

    # ---- state ---------------------------------------------------------------------------------

    def was_set(self, command: str, args: dict[str, Any], lead: Child) -> None:
        """``lead`` has made a call that sets state: the others are to follow."""
        self.state.note(command, args)
        for child in self.children:
            if child is not lead and (State.STARTING < child.state <= State.SERVING or child.catching_up):
                child.behind.append((command, args))
                self._catch_up(child)

    def setting_interrupted(self, child: Child) -> None:
        """A call that sets state was stopped in ``child``: nobody knows what it has done there by now."""
        self.setting = False
        self.retire(child)

    def _catch_up(self, child: Child) -> None:
        """Make the next call that ``child`` lacks; it serves when there is none left."""
        if child.catching_up or child.state > State.SERVING:
            return
        if child.behind:
            command, args = child.behind.popleft()
            child.catching_up = True
            self.ask(child, command, args, lambda answer: self._caught_up(child, command, answer))
            return
        if child.state is not State.SERVING:
            child.state = State.SPARE
            self._fill()
        if self.serving == self.size:
            self._now_all_there()
        elif self.serving == 1 and not self._all_there:
            self._loop.call_later(ALL_THERE_S, self._now_all_there)
        self._scheduler.promote()

    def _now_all_there(self) -> None:
        if not self._all_there:
            self._all_there = True
            self._scheduler.promote()

    def _caught_up(self, child: Child, command: str, answer: Any) -> None:
        child.catching_up = False
        failed = answer is not None and answer["type"] in ("error", "cancelled")
        if failed and child.state <= State.SERVING:  # of one that ends it is no news
            # It went well in another worker. A new one may do better; if not, its requests will tell.
            log.error("%r failed in worker %s only: %s", command, child.pid, answer.get("error"))
            if child.state is not State.STARTING:
                self.retire(child)
        self._catch_up(child)

    # ---- births --------------------------------------------------------------------------------

    def commands_known(self, report: Report) -> None:
        """See :class:`bridge.family.spawner.Family`."""
        self.state.declare(report.states)
        self._on_commands(report)

    def can_fork(self) -> None:
        """Have as many workers as there should be and a spare one; one more while a worn-out one finishes."""
        while self._spawner.open and lacks_one(self.children, self.size):
            try:
                child = Child(self._loop, self)
            except OSError as error:  # no descriptors left
                self._spawner.hold(error.strerror)
                return
            self.children.append(child)
            self._spawner.fork(child)

    def _fill(self) -> None:
        """Have the spare worker take the place of one that has ended."""
        for child in self.children:
            if child.state is State.SPARE and self.serving < self.size:
                child.state = State.SERVING

    def born(self, child: Child) -> None:
        """See :class:`bridge.family.spawner.Family`."""
        if self._host_ended:
            child.send(HOST_ENDED)
            child.flush()
        self._welcome(child)

    def _welcome(self, child: Child) -> None:
        """Have a newborn get to work once it has spoken *and* the template has named its process, in either
        order: one without a name could not be killed."""
        if child.ready and child.pid is not None:
            child.behind.extend(self.state.calls())
            self._catch_up(child)

    def not_born(self, child: Child) -> None:
        """See :class:`bridge.family.spawner.Family`."""
        self._forget(child)
        child.close()

    # ---- ends ----------------------------------------------------------------------------------

    def ended(self, child: Child) -> None:
        """See :class:`bridge.family.child.Home`: a worker has closed its socket, as the dead do."""
        if child not in self.children:
            return
        self._forget(child)
        how = "recycled" if child.state is State.LEAVING else "hung" if child.hung else "died"
        child.close()
        self._counts[how] += 1
        if how != "recycled":
            self._spawner.note_death(child)
        self._fill()
        self.can_fork()
        if how != "recycled":
            log.warning("worker %s has %s", child.pid, how)
        self._deaths.add(child)

    def process_ended(self, pid: int, status: int) -> None:
        """See :class:`bridge.family.spawner.Family`."""
        child = next((child for child in self.children if child.pid == pid), None)
        self._deaths.note(pid, status, lives=child is not None)
        if child is not None:
            while child.state is not State.GONE and child.read():
                pass  # its last words
            self.ended(child)  # in case a process that it started holds the socket open

    def _forget(self, child: Child) -> None:
        self.children.remove(child)
        self._dirty.discard(child)
        if not self.children:
            self._nobody_left.set()

    def _end_requests(self, child: Child, status: int | None) -> None:
        """End what a dead worker had in hand."""
        routes = [*child.inflow.routes.values()]
        child.inflow.routes.clear()
        for route in routes:
            if route.kind is Kind.OWN:
                route.owner(None)
        hosts = [route for route in routes if route.kind is Kind.HOST]
        self._scheduler.orphaned(hosts, death(status, hung=child.hung))

    def retire(self, child: Child) -> None:
        """Give ``child`` nothing new; it ends when it has finished."""
        if child.state <= State.SERVING:
            child.state = State.RETIRING
            if not child.load:
                self._see_off(child)
            self._fill()
            self._loop.call_soon(self._scheduler.promote)  # the spare one may be able to, if no other was
            self.can_fork()

    def recall(self, child: Child) -> None:
        """Have a worn-out worker that is still busy take requests again."""
        child.state, child.recalled = State.SERVING, True
        self._scheduler.promote()

    def _see_off(self, child: Child) -> None:
        child.leave()
        self._loop.call_later(self._options.grace_ms / 1000, child.kill)

    # ---- the family's end ----------------------------------------------------------------------

    async def aclose(self, within_s: float) -> None:
        """End all workers and the template, within ``within_s`` seconds; at once with 0."""
        self._spawner.stop()
        for child in [*self.children]:
            if not within_s:
                self._spawner.abandon(child)
                continue
            if child.inflow.routes:
                child.send(b'{"command":"shutdown","args":{"mode":"abort"}}')
            child.leave()
        if within_s and self.children:
            self._nobody_left.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._nobody_left.wait(), within_s)
        for child in self.children:
            child.kill()
            child.close()
        self._spawner.close(HURRY_S)
