"""An independent reading of the protocol: cuts a worker's output into chunks and checks every one."""

from __future__ import annotations

import json
from typing import Any

Chunk = dict[str, Any]
Key = tuple[type, str | int]

#: What no line may hold unescaped: hosts' line readers split on it.
_SEPARATORS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85")


class Violation(AssertionError):
    """The worker broke a promise that holds for every chunk."""


class Cutter:
    """Bytes of a worker's stdout to the JSON texts in it; ``rest`` is what is not complete yet."""

    def __init__(self, framing: str) -> None:
        self._packet4 = framing == "packet4"
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        self.rest += data
        return self._packets() if self._packet4 else self._lines()

    def _lines(self) -> list[bytes]:
        *lines, self.rest = self.rest.split(b"\n")
        return lines

    def _packets(self) -> list[bytes]:
        packets, at = [], 0
        while len(self.rest) - at >= 4:
            end = at + 4 + int.from_bytes(self.rest[at : at + 4], "big")
            if end > len(self.rest):
                break
            packets.append(self.rest[at + 4 : end])
            at = end
        self.rest = self.rest[at:]
        return packets


def frame(text: bytes, framing: str) -> bytes:
    """One JSON text as the host writes it."""
    return len(text).to_bytes(4, "big") + text if framing == "packet4" else text + b"\n"


def key_of(request_id: str | int) -> Key:
    """``1`` and ``"1"`` are two ids."""
    return type(request_id), request_id


class Checker:
    """Holds each chunk against what PROTOCOL.md says of all chunks.

    The worker owns ``id``, ``seq`` and ``done`` (first, second, last key); ``seq`` has no gaps; nothing
    follows ``done`` unless it is a new request's ``seq`` 0; what has the id null has neither; ``ready`` is
    first and nothing follows ``bye``.
    """

    def __init__(self) -> None:
        self._next: dict[Key, int] = {}
        self._count = 0
        self._bye = False

    def parse(self, text: bytes) -> Chunk:
        """The chunk that ``text`` holds.

        :raises Violation: when the worker may not write this, or not now.
        """
        for separator in _SEPARATORS:
            self._hold(separator not in text, "a line separator is escaped", text)
        self._hold(b"\n" not in text, "a chunk holds no LF", text)
        try:
            chunk = json.loads(text, parse_constant=_no_constant)
        except ValueError as error:
            raise Violation(f"not JSON ({error}): {text[:200]!r}") from error
        self._hold(isinstance(chunk, dict), "a chunk is an object", text)
        self._hold(isinstance(chunk.get("type"), str), "a chunk has a type", text)
        self._hold(not self._bye, "nothing follows bye", text)
        self._hold((self._count > 0) is not (chunk["type"] == "ready"), "ready is the first line", text)
        self._count += 1
        self._place(chunk, text)
        self._bye = chunk["id"] is None and chunk["type"] == "bye"
        return chunk  # type: ignore[no-any-return]  # json.loads gives Any

    def idle(self) -> bool:
        """Whether every request that has sent something has ended, and the worker goes on."""
        return not self._bye and not any(self._next.values())

    def _place(self, chunk: Chunk, text: bytes) -> None:
        keys = list(chunk)
        self._hold(keys[0] == "id", "id is the first key", text)
        if chunk["id"] is None:
            self._hold("seq" not in chunk and "done" not in chunk, "id null has neither seq nor done", text)
            return
        self._hold(keys[1] == "seq", "seq is the second key", text)
        if "done" in chunk:
            self._hold(keys[-1] == "done" and chunk["done"] is True, "done is true and the last key", text)
        key = key_of(chunk["id"])
        expected = self._next.get(key, 0)
        self._hold(chunk["seq"] == expected, f"seq counts without gaps (expected {expected})", text)
        self._next[key] = 0 if "done" in chunk else expected + 1

    @staticmethod
    def _hold(truth: bool, promise: str, text: bytes) -> None:
        if not truth:
            raise Violation(f"{promise}: {text[:300]!r}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
