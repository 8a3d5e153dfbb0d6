"""One worker: wires the pipe's two ends to the scheduler and runs the loop until the end."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from bridge.options import ServeOptions
from bridge.registry import Registry
from bridge.telemetry import LogWriter, Stats
from bridge.wire.chunks import ChunkFormat
from bridge.wire.framing import FRAMINGS, Decoder
from bridge.wire.sessions import Sessions
from bridge.worker.announce import Signals
from bridge.worker.lifecycle import Exit, Lifecycle
from bridge.worker.outbox import Outbox
from bridge.worker.scheduler import Scheduler
from bridge.worker.stdio import open_sink, open_source
from bridge.worker.watcher import Watcher

log = logging.getLogger("bridge.worker")

#: How long, in seconds, processes that the worker started may take to end.
END_S: Final = 2.0
#: The same when the host is gone: this process is ended in half a second.
HURRY_S: Final = 0.4


class Worker:
    """A worker on two descriptors. :meth:`run` returns the exit code."""

    #: Requests that may run beyond the limit, and bytes by which lines may be: for what a supervisor adds.
    spare_inflight = 0
    spare_line_bytes = 0
    scheduler_type: type[Scheduler] = Scheduler

    def __init__(
        self,
        options: ServeOptions,
        registry: Registry,
        stdin: int,
        stdout: int,
        logs: LogWriter,
        signals: Signals,
    ) -> None:
        self.options = options
        self._logs = logs
        self.registry = registry
        self._stats = Stats()
        self._loop = asyncio.new_event_loop()
        self._decoder: Decoder = FRAMINGS[options.framing](options.max_line_bytes + self.spare_line_bytes)
        self._code = Exit.INTERNAL
        self._stopped = False
        self._holds: set[str] = set()
        self._source = open_source(self._loop, stdin, self._received)
        self._outbox = Outbox(
            self._loop,
            open_sink(self._loop, stdout),
            escape=options.framing == "lines",
            on_broken=lambda: self._lifecycle.host_gone(),
            on_replies=lambda flowing: self._hold_input("replies", not flowing),
        )
        self._scheduler = self._make_scheduler()
        self._lifecycle = Lifecycle(
            self._loop, options, self._outbox, self._scheduler, self._stats, self._stop
        )
        self._watcher = Watcher(
            stdin,
            stdout,
            signals,
            watch_parent=options.parent_watch,
            on_broken=self._lifecycle.broken_from_thread,
            on_orphaned=self._lifecycle.orphaned_from_thread,
            on_signal=self._signal_from_thread,
        )

    def _make_scheduler(self) -> Scheduler:
        options = self.options
        chunk_format = ChunkFormat(
            framing=options.framing, max_line_bytes=options.max_line_bytes, max_depth=options.max_depth
        )
        sessions = Sessions(
            chunk_format,
            max_inflight=options.max_inflight + self.spare_inflight,
            max_queued=options.max_queued,
            max_queued_bytes=options.max_queued_bytes,
        )
        return self.scheduler_type(
            self._loop,
            self._outbox,
            sessions,
            self.registry,
            self,
            self._stats,
            max_depth=options.max_depth,
            debug=options.debug,
            input_waits=self._source.waits,
            on_shutdown=lambda mode, grace_s: self._lifecycle.shutdown(mode, grace_s),
            on_accepted=lambda: self._lifecycle.request_accepted(),
            on_ended=lambda: self._lifecycle.request_ended(),
        )

    def run(self, unsent: bytes = b"") -> int:
        """Serve until the end and give the exit code. ``unsent``: what is left of ``ready``."""
        self._watcher.start()
        self._loop.set_exception_handler(_log_loop_error)
        self._begin(unsent)
        self._loop.run_forever()
        self._close()
        return self._code

    def _begin(self, unsent: bytes) -> None:
        self._outbox.buffer += unsent
        self._outbox.flush()
        self._lifecycle.start()
        self._source.start()
        self._loop.call_soon(self._preload)

    def stats(self) -> dict[str, Any]:
        """The counters, and what is in flight now."""
        sessions = self._scheduler.sessions
        return {
            **self._stats.snapshot(),
            "running": sessions.running,
            "queued": sessions.queued,
            "queued_bytes": sessions.queued_bytes,
            "bytes_written": self._outbox.bytes_written,
            "bytes_waiting": self._outbox.waiting,
            "log_lines_dropped": self._logs.dropped,
        }

    def _hold_input(self, reason: str, hold: bool) -> None:
        """Read nothing for as long as one of the reasons holds."""
        before = bool(self._holds)
        (self._holds.add if hold else self._holds.discard)(reason)
        if bool(self._holds) != before:
            (self._source.pause if hold else self._source.resume)()

    def _received(self, data: bytes) -> None:
        self._stats.bytes_read += len(data)
        if data:
            self._scheduler.receive(self._decoder.feed(data))
        else:
            self._scheduler.receive(self._decoder.finish())
            self._lifecycle.input_ended()

    def _signal_from_thread(self, count: int) -> None:
        self._lifecycle.signal_from_thread(count)

    def _preload(self) -> None:
        """Import DSPy in the background when it is clear that it will be needed."""
        if self.options.preload or self.options.model is not None:
            from bridge.commands import preload

            preload(self.options)

    def _close(self) -> None:
        """End what must not outlive this process: the servers of ``--mcp``."""
        if self.options.mcp:
            from bridge.dspy_runtime import loader

            within_s = HURRY_S if self._code == Exit.HOST_GONE else END_S
            self._loop.run_until_complete(loader.aclose(within_s))

    def _stop(self, code: Exit) -> None:
        if not self._stopped:  # a second reason to end must not stop the loop while it ends servers
            self._stopped = True
            self._code = code
            self._loop.stop()


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("%s", context.get("message"), exc_info=context.get("exception"))


def serve(
    options: ServeOptions,
    registry: Registry,
    stdin: int,
    stdout: int,
    logs: LogWriter,
    signals: Signals,
    unsent: bytes,
) -> int:
    """Run a worker that has been announced to its end and give the exit code."""
    return run_to_the_end(lambda: Worker(options, registry, stdin, stdout, logs, signals), logs, unsent)


def run_to_the_end(make: Callable[[], Worker], logs: LogWriter, unsent: bytes = b"") -> int:
    """Set the process up for a worker, run it (see :meth:`Worker.run`), and give the exit code."""
    # A thread that computes must not keep the loop waiting for Python's default of 5 ms.
    sys.setswitchinterval(0.001)
    # glibc gives memory over its trim threshold (128 KB) back to the kernel at every free, and the buffers
    # of a flush are faulted in again for the next. Freeing one large block raises the threshold for good.
    bytes(2 * 1024 * 1024)
    try:
        return make().run(unsent)
    except Exception:
        log.critical("the worker failed", exc_info=True)
        return Exit.INTERNAL
    finally:
        logs.flush(0.3)
