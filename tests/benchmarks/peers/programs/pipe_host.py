"""``multiprocessing.Pipe``: a spawned child sends dicts, its parent receives them."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

from tests.benchmarks.payloads import TEXTS
from tests.benchmarks.peers.programs.host import serve


def child(requests: Connection[Any, Any]) -> None:
    """Serve ``(count, text)`` with a stream and None with one answer, until the parent is gone."""
    while True:
        try:
            request = requests.recv()
        except EOFError:
            return
        if request is None:
            requests.send({"id": "r1", "type": "result", "text": TEXTS["80b"], "done": True})
        else:
            _stream(requests, *request)


def _stream(to: Connection[Any, Any], count: int, name: str) -> None:
    text = TEXTS[name]
    for seq in range(count):
        to.send({"id": "r1", "seq": seq, "type": "chunk", "text": text})
    to.send({"id": "r1", "type": "complete", "done": True})


class PipeChild:
    """The child, started afresh as a worker is: with ``fork`` it would begin as a copy of its parent."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=child, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The child's process."""
        assert self._process.pid
        return self._process.pid

    def stream(self, count: int, text: str) -> int:
        """Receive dicts until one says that it is the last."""
        self._pipe.send((count, text))
        seen = 0
        while "done" not in self._pipe.recv():
            seen += 1
        return seen

    def answer(self) -> None:
        """One round trip."""
        self._pipe.send(None)
        self._pipe.recv()

    def close(self) -> None:
        """The child ends when its pipe does."""
        self._pipe.close()
        self._process.join()


if __name__ == "__main__":
    serve(PipeChild)
