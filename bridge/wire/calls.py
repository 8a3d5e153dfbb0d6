"""What a request asked of its host: calls by ``call_id``."""

from __future__ import annotations

import re
from typing import Final

from bridge.errors import BridgeError, Code

_CALL_ID: Final = r"(?a)c[1-9][0-9]{0,9}"


class Calls:
    """What a request asked its host and the host has not answered yet (``call_id`` by call)."""

    __slots__ = ("_issued", "_open")

    def __init__(self) -> None:
        self._issued = 0
        self._open: set[str] = set()

    def issue(self) -> str:
        """A new call's id, unique within its request."""
        self._issued += 1
        call_id = f"c{self._issued}"
        self._open.add(call_id)
        return call_id

    def reopen(self, call_id: str) -> None:
        """An answer to a call that was issued before is wanted now."""
        self._open.add(call_id)

    def answer(self, call_id: str, *, strict: bool = True) -> bool:
        """True for the first answer to an open call, False for late and doubled ones.

        :raises BridgeError: ``invalid_args`` for a call that was never issued, if ``strict``.
        """
        if call_id in self._open:
            self._open.discard(call_id)
            return True
        if not strict or (re.fullmatch(_CALL_ID, call_id) and int(call_id[1:]) <= self._issued):
            return False
        message = f"No tool call with the call_id {call_id[:80]!r} was made by this request."
        raise BridgeError(message, code=Code.INVALID_ARGS, details={"path": "$.args.call_id"})

    def drop(self, call_id: str) -> None:
        """Nobody waits for this answer any more; it counts as late when it comes."""
        self._open.discard(call_id)
