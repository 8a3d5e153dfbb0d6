"""``ready`` and the signals: what a worker says and hears before its loop is there.

asyncio and what the loop's side needs are half of all imports. They follow while the host reads ``ready``:
lines that it sends wait in the pipe, signals in :class:`Signals`, so nothing before the loop is lost. No
import here may lead to asyncio, orjson or logging.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Any, Final

from bridge._version import __version__
from bridge.options import ServeOptions
from bridge.wire.codec import unbound_chunk
from bridge.wire.messages import PROTOCOL_VERSION

NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT as bytes in a pipe, from the moment this is made. Main thread only.

    ``fd`` polls as readable when some have arrived; ``parent`` is the process that started this one.
    """

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.fd, wake = os.pipe()
        os.set_blocking(wake, False)
        # The pipe does the work, even while the main thread is stuck in a call.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in NUMBERS:
            signal.signal(number, _nothing)
        os.register_at_fork(after_in_child=_forget)

    def take(self) -> int:
        """How many have arrived since the last time; waits for the first."""
        return sum(number in NUMBERS for number in os.read(self.fd, 64))


def _nothing(*_: object) -> None:
    """Have Python write to the pipe instead of ending the process."""


def _forget() -> None:
    """A forked child takes signals as any process does."""
    signal.set_wakeup_fd(-1)
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)


def announce(options: ServeOptions, commands: list[str], stdout: int) -> bytes:
    """Say ``ready``, with the names of the ``commands``; gives what of it could not be written.

    The rest is the outbox's: before the loop there is no waiting for a host that does not read, and that
    there is none is the lifecycle's to tell.
    """
    line = ready_line(options, commands)
    poll = select.poll()
    poll.register(stdout, select.POLLOUT)
    try:
        # A pipe that polls as writable takes this much at once.
        if len(line) <= select.PIPE_BUF and any(events == select.POLLOUT for _, events in poll.poll(0)):
            return line[os.write(stdout, line) :]
    except OSError:
        pass
    return line


def ready_line(options: ServeOptions, commands: list[str]) -> bytes:
    """``ready``, framed."""
    payload: dict[str, Any] = {
        "type": "ready",
        "protocol": PROTOCOL_VERSION,
        "version": __version__,
        "pid": os.getpid(),
        "limits": options.limits(),
        "commands": commands,
    }
    if not all(map(str.isascii, commands)):
        from bridge.wire.fallback import plain  # a name may be anything that a str can be

        payload = plain(payload, options.max_depth)
    return unbound_chunk(payload, packet4=options.framing == "packet4")
