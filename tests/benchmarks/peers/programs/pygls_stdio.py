"""A language server on stdio with two requests of its own: one sends notifications, one answers."""

from __future__ import annotations

from typing import Any

from pygls.lsp.server import LanguageServer

from tests.benchmarks.payloads import TEXTS

server = LanguageServer("bench", "1")


@server.feature("bench/stream")  # type: ignore[untyped-decorator]  # pygls is not there when types are checked
async def stream(ls: Any, params: Any) -> dict[str, Any]:
    """``count`` custom notifications that carry the text."""
    text = TEXTS[params.text]
    for seq in range(params.count):
        ls.protocol.notify("bench/chunk", {"id": "r1", "seq": seq, "type": "chunk", "text": text})
    return {"type": "complete"}


@server.feature("bench/answer")  # type: ignore[untyped-decorator]  # as above
async def answer(ls: Any, params: Any) -> dict[str, Any]:
    """One short answer."""
    return {"type": "result", "text": TEXTS["80b"]}


if __name__ == "__main__":
    server.start_io()
