"""What is said to the peers that write lines."""

from __future__ import annotations

import json
from typing import Any

from tests.benchmarks.peers.servers import Dialect


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _rpc(method: str, params: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params, **fields}


def _tool(name: str, arguments: dict[str, Any]) -> bytes:
    params = {"name": name, "arguments": arguments, "_meta": {"progressToken": "r1"}}
    return _line(**_rpc("tools/call", params, id=1))


def _packet(method: str, params: dict[str, Any], **fields: Any) -> bytes:
    body = json.dumps(_rpc(method, params, **fields)).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


THREADS = Dialect(
    "threads",
    lambda count, text: _line(id="r1", count=count, text=text),
    _line(id="r1"),
)

MCP = Dialect(
    "mcp_stdio",
    lambda count, text: _tool("stream", {"count": count, "text": text}),
    _tool("answer", {}),
    [
        (
            _line(
                **_rpc(
                    "initialize",
                    {
                        "protocolVersion": "2025-06-18",
                        "capabilities": {},
                        "clientInfo": {"name": "bench", "version": "1"},
                    },
                    id=0,
                )
            ),
            1,
        ),
        (_line(jsonrpc="2.0", method="notifications/initialized"), 0),
    ],
)

#: Its messages have two header lines and an empty one, and no line feed in the JSON.
PYGLS = Dialect(
    "pygls_stdio",
    lambda count, text: _packet("bench/stream", {"count": count, "text": text}, id=1),
    _packet("bench/answer", {}, id=1),
    [
        (_packet("initialize", {"processId": None, "rootUri": None, "capabilities": {}}, id=0), 3),
        (_packet("initialized", {}), 0),
    ],
    feeds=3,
)
