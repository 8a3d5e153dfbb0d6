"""Plain threads: one for each request, ``print`` of ``json.dumps`` with a flush for each chunk."""

from __future__ import annotations

import json
import sys
import threading

from tests.benchmarks.payloads import TEXTS


def _stream(name: str, count: int, text: str) -> None:
    chunk = TEXTS[text]
    for seq in range(count):
        print(json.dumps({"id": name, "seq": seq, "type": "chunk", "text": chunk}), flush=True)
    print(json.dumps({"id": name, "type": "complete", "done": True}), flush=True)


def _answer(name: str) -> None:
    print(json.dumps({"id": name, "type": "result", "text": TEXTS["80b"], "done": True}), flush=True)


def main() -> None:
    """Serve requests ``{"id","count","text"}``, or ``{"id"}`` for an answer, one a line, until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "count" in request:
            work = threading.Thread(target=_stream, args=(request["id"], request["count"], request["text"]))
        else:
            work = threading.Thread(target=_answer, args=(request["id"],))
        work.start()


if __name__ == "__main__":
    main()
