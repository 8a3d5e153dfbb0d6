"""What the requests of a dead worker are told."""

from __future__ import annotations

import os
import signal
from typing import Any

from bridge.errors import BridgeError, Code

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
