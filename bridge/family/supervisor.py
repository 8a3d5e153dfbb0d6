"""The supervisor: a worker to its host, whose commands run in a family of workers."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from bridge.context import Context
from bridge.family.crew import Crew
from bridge.family.messages import Report
from bridge.family.pressure import UNREAD_BYTES, Pressure
from bridge.family.relay import FamilyScheduler, RemoteCommand
from bridge.family.stats import family_stats
from bridge.family.template_process import TemplateProcess
from bridge.options import ServeOptions
from bridge.registry import Command, Registry, default
from bridge.telemetry import LogWriter
from bridge.worker.announce import Signals, ready_line
from bridge.worker.lifecycle import Exit
from bridge.worker.scheduler import Scheduler
from bridge.worker.worker import END_S, Worker, run_to_the_end

log = logging.getLogger("bridge.family")


class Supervisor(Worker):
    """See the module's words."""

    scheduler_type = FamilyScheduler
    _scheduler: FamilyScheduler

    def __init__(
        self,
        options: ServeOptions,
        template: TemplateProcess,
        stdin: int,
        stdout: int,
        logs: LogWriter,
        signals: Signals,
    ) -> None:
        self._template = template
        # The limits that wear a worker out are each worker's.
        own = msgspec.structs.replace(options, max_requests=None, max_rss_mb=None, max_age_s=None)
        self._family_options = options
        super().__init__(own, Registry(), stdin, stdout, logs, signals)

    def _make_scheduler(self) -> Scheduler:
        scheduler = super()._make_scheduler()
        assert isinstance(scheduler, FamilyScheduler)  # scheduler_type
        most = self.options.max_queued_bytes + UNREAD_BYTES
        scheduler.pressure = Pressure(most, lambda hold: self._hold_input("unread", hold))
        self.crew = scheduler.crew = Crew(
            self._loop,
            self._family_options,
            scheduler,
            on_commands=self._commands_known,
            on_failure=lambda code: self._stop(_exit_code(code)),
        )
        return scheduler

    def _begin(self, unsent: bytes) -> None:
        """``ready`` waits for the commands' names, which the template tells."""
        self.crew.start(self._template)

    def _commands_known(self, report: Report) -> None:
        if self._scheduler.closed:
            return  # it ends already
        self._scheduler.announced = True
        import bridge.commands.core  # noqa: F401 - registers ping

        for name in report.commands or ():
            if name == "ping":  # answered here: it tells that the pipe works, whatever the workers do
                self.registry.add(default.get(name))
            elif name == "stats":
                self.registry.add(Command(name, self._family_stats))
            else:
                self.registry.add(RemoteCommand(name, state=name in report.states))
        super()._begin(ready_line(self._family_options, self.registry.names()))

    async def _family_stats(self, args: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return await family_stats(self.stats(), self.crew)

    def _close(self) -> None:
        within_s = 0.0 if self._code == Exit.HOST_GONE else END_S
        self._loop.run_until_complete(self.crew.aclose(within_s))


def _exit_code(code: int) -> Exit:
    return Exit.USAGE if code == Exit.USAGE else Exit.INTERNAL


def serve_family(
    options: ServeOptions,
    template: TemplateProcess,
    stdin: int,
    stdout: int,
    logs: LogWriter,
    signals: Signals,
) -> int:
    """Run a family of workers to its end and give the exit code."""
    return run_to_the_end(lambda: Supervisor(options, template, stdin, stdout, logs, signals), logs)
