"""Where the players of one case play: their folder, and what they report."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.worker import PATIENCE, alive, wait_gone

PLAYER = Path(__file__).parent / "player.py"
Report = dict[str, Any]


class Stage:
    """A folder with a fifo that all players of a case report to."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="players")
        fifo = os.path.join(self._folder.name, "report")
        os.mkfifo(fifo)
        self._fd = os.open(fifo, os.O_RDWR)  # writing too: no player's end is the fifo's end
        self._rest = b""
        self.reports: list[Report] = []

    def argv(self, path: Path, name: str, framing: str) -> list[str]:
        """The command line of a player."""
        flags = ["--framing", framing] if framing != "lines" else []
        return [sys.executable, "-S", "-E", str(PLAYER), str(path), name, self._folder.name, *flags]

    def read(self, timeout: float = 0.0) -> bool:
        """Take in what was reported, waiting up to ``timeout`` seconds for something."""
        if not select.select([self._fd], [], [], max(0.0, timeout))[0]:
            return False
        *lines, self._rest = (self._rest + os.read(self._fd, 1 << 16)).split(b"\n")
        self.reports += [json.loads(line) for line in lines]
        return True

    def report(self, number: int, event: str, timeout: float = PATIENCE) -> Report:
        """The report of that event by the ``number``-th player that was started.

        :raises TimeoutError: when there was none.
        """
        deadline = time.monotonic() + timeout
        while not (found := self._of(number, event)):
            if not self.read(deadline - time.monotonic()):
                raise TimeoutError(f"worker {number} was not {event}")
        return found[0]

    def gone(self, number: int, timeout: float = PATIENCE) -> None:
        """Come back when the ``number``-th player has ended.

        :raises TimeoutError: when it does not.
        """
        wait_gone(self.report(number, "started")["pid"], timeout)

    def verdict(self, most: int | None) -> str | None:
        """What the players say against the client; None when nothing.

        ``most``: later starts than that are not looked at.
        """
        while self.read():
            pass
        judged = [one for one in self.reports if most is None or one["start"] <= most]
        said = [f"worker {one['start']}: {one['text']}" for one in judged if one["event"] == "mismatch"]
        ended = {one["start"] for one in judged if one["event"] in ("finished", "mismatch")}
        living = {one["start"] for one in self.living()}
        said += [
            f"worker {number} was killed before its part ended, or told no shutdown"
            for number in sorted({one["start"] for one in judged} - ended)
            if number not in living
        ]
        return "; ".join(said) or None

    def living(self) -> list[Report]:
        """The start reports of players that have not ended."""
        return [one for one in self.reports if one["event"] == "started" and alive(one["pid"])]

    def _of(self, number: int, event: str) -> list[Report]:
        return [one for one in self.reports if one["start"] == number and one["event"] == event]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.read():
            pass
        left = [one["pid"] for one in self.living()]
        left += [one["child"] for one in self.reports if one["event"] == "child"]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._fd)
        self._folder.cleanup()
