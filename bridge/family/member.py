"""A worker of a family: what a single worker is, on a socket to the supervisor instead of the host's pipe."""

from __future__ import annotations

import os
import sys
from typing import Final

import msgspec

from bridge.options import ServeOptions
from bridge.registry import Registry
from bridge.telemetry import LogWriter
from bridge.worker.announce import Signals, ready_line
from bridge.worker.watcher import die_with_parent
from bridge.worker.worker import Worker, run_to_the_end

#: The line by which a supervisor says that the host can send nothing more. No request has this form.
HOST_ENDED: Final = b'{"family":"the host\'s input has ended"}'
#: By which a worker asks to be replaced when its work is done.
RETIRE: Final = {"type": "retire"}
#: The supervisor has measured the host's lines; its own may be longer (all that was set under one name).
SPARE_LINE_BYTES: Final = 1 << 40
#: Room for the requests of a supervisor's own.
SPARE_INFLIGHT: Final = 64


class Member(Worker):
    """See the module's words. The supervisor alone decides when it ends, and counts what it serves."""

    spare_inflight = SPARE_INFLIGHT
    spare_line_bytes = SPARE_LINE_BYTES

    def _received(self, data: bytes) -> None:
        if not data:  # a line that is cut short was for a request that has ended
            self._lifecycle.input_ended()
            return
        self._stats.bytes_read += len(data)
        frames = self._decoder.feed(data)
        if HOST_ENDED in frames:
            place = frames.index(HOST_ENDED)
            self._scheduler.receive(frames[:place])
            self._scheduler.input_ended()
            del frames[: place + 1]
        self._scheduler.receive(frames)

    def _signal_from_thread(self, count: int) -> None:
        # A terminal's Ctrl-C reaches the whole group: the supervisor is draining then and asks for nothing.
        if count == 1:
            self._loop.call_soon_threadsafe(self._scheduler.announce, RETIRE)


def serve_member(options: ServeOptions, registry: Registry, fd: int, logs: LogWriter) -> int:
    """Run a worker of a family on the socket ``fd``, in a process that was just forked."""
    options = msgspec.structs.replace(
        options, framing="lines", max_requests=None, max_rss_mb=None, max_age_s=None, parent_watch=False
    )
    os.register_at_fork(after_in_child=lambda: os.close(fd))
    if options.die_with_parent:
        die_with_parent()
    if (numpy := sys.modules.get("numpy.random")) is not None:
        numpy.seed()  # as Python does for its own: workers are not to draw the same numbers
    signals = Signals()
    return run_to_the_end(
        lambda: Member(options, registry, fd, fd, logs, signals),
        logs,
        ready_line(options, registry.names()),
    )
