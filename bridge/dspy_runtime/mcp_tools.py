"""Tools of MCP servers as tools of DSPy, with the schemas as the server gives them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dspy

from bridge.dspy_runtime.mcp_sdk import either
from bridge.dspy_runtime.tool_schema import expand


@dataclass(frozen=True)
class McpTool:
    """A server's tool; ``required`` names the arguments that its schema requires.

    ``tool`` is to be awaited (``acall``), on the loop its server runs on.
    """

    tool: dspy.Tool
    required: tuple[str, ...]


def convert(session: Any, tool: Any) -> McpTool:
    """The SDK's ``tool`` for DSPy; a call of it is one of ``session.call_tool``."""
    schema = either(tool, "input_schema", "inputSchema") or {}
    properties = schema.get("properties")
    args = {
        name: expanded if isinstance(expanded := expand(value, schema), dict) else {}
        for name, value in (properties if isinstance(properties, dict) else {}).items()
    }
    listed = schema.get("required")
    required = tuple(name for name in (listed if isinstance(listed, list) else ()) if name in args)
    # DSPy 3.4 looks a type up by its name and can not by a list of names, as nullable ones have.
    plain = {name: _strings(value) for name, value in args.items()}
    source = SimpleNamespace(
        name=tool.name,
        description=tool.description,
        inputSchema={"properties": plain, "required": required},
    )
    made = dspy.Tool.from_mcp_tool(session, source)
    made.args = args
    return McpTool(made, required)


def _strings(schema: dict[str, Any]) -> dict[str, Any]:
    """What DSPy itself reads of an argument's schema, where it is what DSPy takes it for."""
    return {key: schema[key] for key in ("type", "description") if isinstance(schema.get(key), str)}
