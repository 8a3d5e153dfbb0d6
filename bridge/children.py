"""Processes that the worker started. What ends the worker without asking the loop ends them too."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

#: The leaders of the process groups that run now.
groups: Final[set[int]] = set()


def kill_all() -> None:
    """Send every group SIGKILL. From any thread."""
    for leader in [*groups]:
        with suppress(OSError):
            os.killpg(leader, signal.SIGKILL)
