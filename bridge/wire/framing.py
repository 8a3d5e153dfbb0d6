"""Cutting a byte stream into frames and frames into a byte stream; no I/O here.

Two framings share one interface: ``lines`` (JSON ended by LF) and ``packet4`` (a 4-byte big-endian
length, then that many bytes, as Erlang ports do with ``{packet, 4}``). How the bytes are cut into
reads never changes the frames that come out.
"""

from __future__ import annotations

from typing import Final, Protocol

BOM: Final = b"\xef\xbb\xbf"
LENGTH_BYTES: Final = 4
#: Bytes of a first line from which on ``find`` is quicker than ``split``, which takes them one by one.
LONG: Final = 600


def packet(frame: bytes) -> bytes:
    """``frame`` behind its length."""
    return len(frame).to_bytes(LENGTH_BYTES, "big") + frame


class Oversized:
    """Stands in the stream of frames for one that was over the limit; its bytes are gone."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Oversized) and other.size == self.size

    def __hash__(self) -> int:
        return hash(self.size)

    def __repr__(self) -> str:
        return f"Oversized({self.size})"


class Truncated(Oversized):
    """The stream ended in the middle of a frame that announced ``size`` bytes."""

    __slots__ = ()


Frame = bytes | Oversized


class Decoder(Protocol):
    """Bytes in, frames out."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes, blank ones left out."""

    def finish(self) -> list[Frame]:
        """What is left when the stream has ended."""


class LineDecoder:
    """Frames ended by LF; a CR before it, blank lines and a BOM on the first line are dropped.

    A line over ``max_bytes`` is discarded up to its LF and comes out as :class:`Oversized`, with the
    number of bytes it had.
    """

    __slots__ = ("_discarded", "_first", "_max_bytes", "_size", "_tail")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tail: list[bytes] = []
        self._size = 0
        self._discarded = 0
        self._first = True

    def feed(self, data: bytes) -> list[Frame]:
        lines = data.split(b"\n")
        rest = lines.pop()
        frames: list[Frame] = []
        if lines:
            self._complete(lines[0], frames)
            limit = self._max_bytes
            del lines[0]
            # As workers and clients write them, all lines begin with a brace, so none is blank, and none ends
            # with a CR: then there is no need to look at each.
            braces = len(lines) + bool(rest)
            if len(data) <= limit and b"\r" not in data and data.count(b"\n{") == braces:
                frames += lines
                lines.clear()
            for line in lines:
                if len(line) <= limit:
                    self._keep(line, frames)
                else:
                    self._hold(line)
                    self._complete(b"", frames)
        if rest:
            self._hold(rest)
        return frames

    def finish(self) -> list[Frame]:
        frames: list[Frame] = []
        self._complete(b"", frames)
        return frames

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line, or only count it once it is past the limit."""
        if self._discarded:
            self._discarded += len(part)
            return
        self._size += len(part)
        # One byte of grace: it may be the CR that does not count.
        if self._size > self._max_bytes + 1 + (len(BOM) if self._first else 0):
            self._discarded = self._size
            self._tail.clear()
            self._size = 0
        else:
            self._tail.append(part)

    def _complete(self, end: bytes, frames: list[Frame]) -> None:
        if self._tail or self._discarded:
            self._hold(end)
            end = b"".join(self._tail)
            self._tail.clear()
            self._size = 0
            if self._discarded:
                frames.append(Oversized(self._discarded))
                self._discarded = 0
                self._first = False
                return
        self._keep(end, frames)

    def _keep(self, line: bytes, frames: list[Frame]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(BOM)
        if line.endswith(b"\r"):
            line = line[:-1]
        if not line or line.isspace():
            return
        frames.append(line if len(line) <= self._max_bytes else Oversized(len(line)))


class Packet4Decoder:
    """Frames behind a 4-byte big-endian length; empty and blank ones are dropped.

    A frame over ``max_bytes`` is skipped by its length and comes out as :class:`Oversized`, one that
    the stream's end cuts short as :class:`Truncated`.
    """

    __slots__ = ("_buffer", "_first", "_max_bytes", "_skip")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._skip = 0
        self._first = True

    def feed(self, data: bytes) -> list[Frame]:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        frames: list[Frame] = []
        position = 0
        available = len(self._buffer)
        while available - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            size = int.from_bytes(self._buffer[position:start], "big")
            if size > self._max_bytes + (len(BOM) if self._first else 0):
                frames.append(Oversized(size))
                self._first = False
                position = min(start + size, available)
                self._skip = start + size - position
            elif available - start >= size:
                self._keep(bytes(self._buffer[start : start + size]), frames)
                position = start + size
            else:
                break
        del self._buffer[:position]
        return frames

    def finish(self) -> list[Frame]:
        rest, self._buffer = self._buffer, bytearray()
        if not rest:
            return []
        announced = int.from_bytes(rest[:LENGTH_BYTES], "big") if len(rest) >= LENGTH_BYTES else 0
        return [Truncated(announced)]

    def _keep(self, frame: bytes, frames: list[Frame]) -> None:
        if self._first:
            self._first = False
            frame = frame.removeprefix(BOM)
        if len(frame) > self._max_bytes:
            frames.append(Oversized(len(frame)))
        elif frame and not frame.isspace():
            frames.append(frame)


def lines_of(block: bytes) -> list[bytes]:
    """The lines of ``block``, which ends with one, without their LF."""
    if block.find(b"\n") < LONG:
        lines = block.split(b"\n")
        lines.pop()
        return lines
    lines, start = [], 0
    while start < len(block):
        end = block.find(b"\n", start)
        lines.append(block[start:end])
        start = end + 1
    return lines


def packets_of(lines: bytes) -> bytes:
    """Whole lines as packets."""
    return b"".join(len(line).to_bytes(LENGTH_BYTES, "big") + line for line in lines_of(lines))


#: What ``--framing`` takes.
FRAMINGS: Final[dict[str, type[LineDecoder] | type[Packet4Decoder]]] = {
    "lines": LineDecoder,
    "packet4": Packet4Decoder,
}
