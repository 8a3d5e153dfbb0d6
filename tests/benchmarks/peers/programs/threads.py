"""Plain threads: one for each request, ``print`` of ``json.dumps`` with a flush for each chunk."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from tests.benchmarks.payloads import TEXTS


def _run(request: dict[str, Any]) -> None:
    name = request["id"]
    text = TEXTS[request["text"]]
    for seq in range(request["count"]):
        print(json.dumps({"id": name, "seq": seq, "type": "chunk", "text": text}), flush=True)
    print(json.dumps({"id": name, "type": "complete", "done": True}), flush=True)


def main() -> None:
    """Serve requests ``{"id","count","text"}``, one a line, until stdin ends."""
    for line in sys.stdin:
        threading.Thread(target=_run, args=(json.loads(line),)).start()


if __name__ == "__main__":
    main()
