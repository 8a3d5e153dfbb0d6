"""Keeping the host from sending more than the workers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from bridge.family.child import Child
from bridge.options import MIB

#: Bytes that may wait for workers that do not read, beside those that may be queued.
UNREAD_BYTES: Final = 8 * MIB


class Pressure:
    """Tells ``hold(True)`` when more than ``most`` bytes wait for workers, and ``hold(False)`` when half of
    that is left. A single worker that does not read stops its host no later: by the pipe between them."""

    def __init__(self, most: int, hold: Callable[[bool], None]) -> None:
        self._most = most
        self._hold = hold
        self._held = False

    def look(self, children: Iterable[Child]) -> None:
        """Something was sent, read, or lost with its worker."""
        unread = sum(child.unread for child in children)
        if self._held != (unread > (self._most // 2 if self._held else self._most)):
            self._held = not self._held
            self._hold(self._held)
