"""What a stream sees of the way out and of what may hold it up. The worker has both."""

from __future__ import annotations

from typing import Final, Protocol

#: Chunks after which a stream that writes on and on looks around.
LOOK: Final = 64


class Way(Protocol):
    """The way out that all streams share; see :class:`bridge.worker.outbox.Outbox`."""

    buffer: bytearray
    #: Bytes from which on ``buffer`` does not wait for the end of the tick.
    flush_bytes: int
    #: Whether ``buffer`` leaves at the end of the tick; whether producers must wait.
    scheduled: bool
    full: bool

    def touch(self) -> None:
        """Something was appended to ``buffer``."""


class Pace(Protocol):
    """What may hold a stream up."""

    async def clear_way(self) -> None:
        """Wait for credit, and for a host that reads; or for the stream's end."""

    async def look(self) -> None:
        """Called every :data:`LOOK` chunks: others may want a turn."""
