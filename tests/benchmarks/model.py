"""``python -m tests.benchmarks.model``: a language model on the loopback interface that keeps a pace.

It speaks OpenAI's chat completions and prints its port. The prompt says what to do: ``pace TOKENS MS`` has
that many tokens come that far apart. Each is a word that tells when it was written: ``t`` and nanoseconds of
the monotonic clock, which is the same in every process.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, Final

#: Tokens to a line of reasoning.
LINE: Final = 10
_FRAME: Final = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
_USAGE: Final = {"prompt_tokens": 100, "completion_tokens": 54, "total_tokens": 154}
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: "
_STREAM_HEAD: Final = _HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _event(delta: dict[str, Any], **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    return _framed(b"data: %s\n\n" % json.dumps({**_FRAME, "choices": choices, **more}).encode())


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_BEFORE, _AFTER = json.dumps({**_FRAME, "choices": [{"index": 0, "delta": {"content": "@"}}]}).split("@")
_START: Final = _event({"role": "assistant", "content": "[[ ## reasoning ## ]]\n"})
_END: Final = b"".join(
    [
        _event({"content": "\n\n[[ ## answer ## ]]\n7\n\n[[ ## completed ## ]]"}),
        _framed(
            b"data: %s\n\n"
            % json.dumps({**_FRAME, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()
        ),
        _framed(b"data: %s\n\n" % json.dumps({**_FRAME, "choices": [], "usage": _USAGE}).encode()),
        _framed(b"data: [DONE]\n\n"),
        b"0\r\n\r\n",
    ]
)


def _token(number: int) -> bytes:
    end = "\\n" if number % LINE == LINE - 1 else ""
    return _framed(f"data: {_BEFORE} t{time.monotonic_ns()}{end}{_AFTER}\n\n".encode())


def _whole(tokens: int) -> bytes:
    words = " ".join(f"t{number:015}" for number in range(tokens))
    text = f"[[ ## reasoning ## ]]\n{words}\n\n[[ ## answer ## ]]\n7\n\n[[ ## completed ## ]]"
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    body = json.dumps({**_FRAME, "object": "chat.completion", "choices": choices, "usage": _USAGE}).encode()
    return _HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def _stream(writer: asyncio.StreamWriter, tokens: int, period_s: float) -> None:
    writer.write(_STREAM_HEAD + _START)
    started = time.monotonic()
    for number in range(tokens):
        wait = started + number * period_s - time.monotonic()
        if period_s and wait > 0:
            await asyncio.sleep(wait)
        writer.write(_token(number))
        if not period_s and number % 8 == 7:
            await writer.drain()
    writer.write(_END)
    await writer.drain()


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(size)
            found = re.search(rb"pace (\d+) ([\d.]+)", body)
            tokens, period_ms = (int(found[1]), float(found[2])) if found else (54, 0.0)
            if json.loads(body).get("stream"):
                await _stream(writer, tokens, period_ms / 1000)
            else:
                writer.write(_whole(tokens))
                await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
