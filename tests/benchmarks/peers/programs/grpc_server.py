"""A gRPC worker on a Unix socket: ``grpc_server KIND SOCKET``, KIND being ``sync`` or ``aio``.

Generic handlers, so that no code is generated: messages are JSON, written by orjson as the worker's are.
Both stop when stdin ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import orjson

from tests.benchmarks.payloads import TEXTS

ANSWER = {"id": "r1", "type": "result", "text": TEXTS["80b"], "done": True}


def _chunks(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = TEXTS[request["text"]]
    for seq in range(request["count"]):
        yield {"id": "r1", "seq": seq, "type": "chunk", "text": text}


def _stream(request: dict[str, Any], _: object) -> Iterator[dict[str, Any]]:
    return _chunks(request)


def _answer(request: dict[str, Any], _: object) -> dict[str, Any]:
    return ANSWER


async def _stream_async(request: dict[str, Any], _: object) -> AsyncIterator[dict[str, Any]]:
    for chunk in _chunks(request):
        yield chunk


async def _answer_async(request: dict[str, Any], _: object) -> dict[str, Any]:
    return ANSWER


def _add(server: Any, address: str, stream: object, answer: object) -> None:
    json = {"request_deserializer": orjson.loads, "response_serializer": orjson.dumps}
    handlers = {
        "Stream": grpc.unary_stream_rpc_method_handler(stream, **json),
        "Answer": grpc.unary_unary_rpc_method_handler(answer, **json),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bench", handlers),))
    server.add_insecure_port(address)


def serve_sync(address: str) -> None:
    """With a pool of threads."""
    server = grpc.server(ThreadPoolExecutor(max_workers=10))
    _add(server, address, _stream, _answer)
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(None).wait()


async def serve_aio(address: str) -> None:
    """On an event loop."""
    server = grpc.aio.server()
    _add(server, address, _stream_async, _answer_async)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    kind, socket = sys.argv[1:]
    if kind == "aio":
        asyncio.run(serve_aio(f"unix:{socket}"))
    else:
        serve_sync(f"unix:{socket}")
