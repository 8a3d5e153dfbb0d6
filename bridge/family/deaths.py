"""What the requests of a dead worker are told, and when."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from bridge.errors import BridgeError, Code
from bridge.family.child import Child

#: How long they wait to be told what it died of.
STATUS_S: Final = 0.1

_AGAIN = "It may be sent again; requests in other workers were not touched."


def death(status: int | None, *, hung: bool) -> BridgeError:
    """The error for a worker that ended with ``status`` of waitpid(2) (None: not known), or that was
    ``hung`` and had to be killed."""
    if hung:
        message = f"The worker that ran this request did not answer any more and was ended. {_AGAIN}"
        return BridgeError(message, code=Code.WORKER_HUNG)
    how = ""
    details: dict[str, Any] | None = None
    if status is not None and os.WIFSIGNALED(status):
        name = _signal_name(os.WTERMSIG(status))
        how, details = f" (killed by {name})", {"signal": name}
    elif status is not None:
        code = os.waitstatus_to_exitcode(status)
        how, details = f" (exit code {code})", {"exit_code": code}
    message = f"The worker that ran this request has died{how}. {_AGAIN}"
    return BridgeError(message, code=Code.WORKER_DIED, details=details)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Deaths:
    """Brings the dead and what they died of together: both are told, in either order, by different ways.

    ``end_requests(child, status)`` is called once for each; the status is None when it did not come in time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, end_requests: Callable[[Child, int | None], None]
    ) -> None:
        self._loop = loop
        self._end_requests = end_requests
        self._waiting: dict[int, Child] = {}
        self._statuses: dict[int, int] = {}

    def add(self, child: Child) -> None:
        """``child`` has died. If nobody waits for the reason neither does this."""
        if child.pid is None or child.pid in self._statuses or not child.inflow.routes:
            self._end_requests(child, None if child.pid is None else self._statuses.pop(child.pid, None))
        else:
            self._waiting[child.pid] = child
            self._loop.call_later(STATUS_S, self._out_of_time, child)

    def note(self, pid: int, status: int, *, lives: bool) -> None:
        """The process ``pid`` died of ``status``. ``lives``: it is still to be added."""
        if (child := self._waiting.pop(pid, None)) is not None:
            self._end_requests(child, status)
        elif lives:
            self._statuses[pid] = status

    def _out_of_time(self, child: Child) -> None:
        if child.pid is not None and self._waiting.get(child.pid) is child:
            del self._waiting[child.pid]
            self._end_requests(child, None)
