"""An MCP server on stdin and stdout: ``python mcp_server.py HOW``.

``HOW`` is ``sdk``, a server as the SDK makes them, or one written by hand, which starts in no time and can do
what the SDK allows nobody to: ``plain`` (nothing strange), ``stubborn`` (ends on SIGKILL only), ``mute``
(answers nothing), ``refusing``, ``noisy`` (prints to stdout), ``broken`` (answers with what is no answer),
``lists`` (never lists its tools), ``circling`` (its pages have no end), ``exits`` (at once, with 3).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

EXIT_CODE = 3
#: Larger than a pipe, and than what asyncio reads at once.
LARGE = 3_000_000


def tool(name: str, properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    """A tool as ``tools/list`` tells it."""
    schema = {"type": "object", "properties": properties, "required": [*required], **more}
    return {"name": name, "inputSchema": schema}


#: One a page.
TOOLS = [
    tool("pid", {}),
    tool("echo", {"value": {"type": ["string", "null"], "minLength": 2}}),
    tool("hang", {}),
    tool("die", {}),
    tool("large", {}),
    tool("grow", {}),
    tool("error", {}),
    tool(
        "shapes",
        {
            "point": {"$ref": "#/$defs/Point", "description": "Where."},
            "tree": {"$ref": "#/$defs/Tree"},
            "old": {"type": "array", "items": {"$ref": "#/definitions/Old"}},
            "far": {"$ref": "https://127.0.0.1:9/schema.json", "description": "Elsewhere."},
            "gone": {"$ref": "#/$defs/Gone"},
            "anything": True,
            "choice": {"type": ["integer", "string"], "enum": [1, "two"], "default": 1},
            "default": {"enum": [{"$ref": "#/$defs/Point"}]},
        },
        "point",
        "unknown",
        **{
            "$defs": {
                "Point": {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "required": ["x"]},
                "X": {"type": ["number", "null"]},
                "Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}},
            },
            "definitions": {"Old": {"type": "integer"}},
        },
    ),
]


def main(how: str) -> None:
    if how == "sdk":
        serve_with_sdk()
    if how == "exits":
        print("no configuration", file=sys.stderr)
        sys.exit(EXIT_CODE)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grown = False
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or how == "mute":
            continue
        if how == "noisy":
            print("Listening …\n\n{}", flush=True)
        result = answer(how, message["method"], message.get("params") or {}, grown)
        if result is not None:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **result}), flush=True)
        if result and "grown" in str(result)[:200] and not grown:
            grown = True
            changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
            print(json.dumps(changed), flush=True)
    while how == "stubborn":
        time.sleep(1)


def answer(how: str, method: str, params: dict[str, Any], grown: bool) -> dict[str, Any] | None:
    """The rest of a response; None for a request that is left without one."""
    if method == "initialize":
        if how == "refusing":
            return {"error": {"code": -32000, "message": "not you"}}
        if how == "broken":
            return {"result": {"nothing": "of it"}}
        about = {"name": "plain", "version": "1"}
        capabilities = {"tools": {"listChanged": True}}
        version = params["protocolVersion"]
        return {"result": {"protocolVersion": version, "capabilities": capabilities, "serverInfo": about}}
    if method == "tools/list":
        if how == "lists":
            return None
        page = 0 if how == "circling" else int(params.get("cursor", 0))
        tools = [TOOLS[page]] + ([tool("new", {})] if grown and page == 0 else [])
        more = {"nextCursor": str(page + 1)} if page + 1 < len(TOOLS) else {}
        return {"result": {"tools": tools, **more}}
    if method != "tools/call":
        return {"error": {"code": -32601, "message": "unknown method"}}
    name = params["name"]
    if name == "hang":
        return None
    if name == "die":
        os._exit(EXIT_CODE)
    if name == "error":
        return {"error": {"code": -32602, "message": "no such argument"}}
    texts = {"pid": str(os.getpid()), "echo": json.dumps(params["arguments"]), "large": "x" * LARGE}
    return {"result": {"content": [{"type": "text", "text": texts.get(name, "grown")}]}}


def serve_with_sdk() -> None:
    """Serve until stdin ends; exits."""
    import anyio
    from mcp.server import mcpserver

    server = mcpserver.MCPServer("sdk")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def fail() -> str:
        raise ValueError("there is no more paper")

    @server.tool()
    async def slow(seconds: float) -> str:
        await anyio.sleep(seconds)
        return "slept"

    @server.tool()
    def die() -> str:
        os._exit(EXIT_CODE)

    @server.tool()
    def note(text: str | None, tags: list[str] | None = None) -> str:
        return json.dumps([text, tags])

    @server.tool()
    def say(text: str) -> str:
        """Print to stderr."""
        print(text, file=sys.stderr, flush=True)
        return "said"

    @server.tool()
    def variables() -> list[str]:
        """The names of the environment."""
        return sorted(os.environ)

    server.run()
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1])
