"""Tools of MCP servers as tools of DSPy, with the schemas as the server gives them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dspy

from bridge.dspy_runtime.mcp_sdk import either

#: Keywords whose values are data: what looks like a reference in them is none.
_DATA = frozenset({"const", "default", "enum", "examples"})
#: Keywords whose values map names, which are no keywords, to schemas.
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
_DEFINITIONS = frozenset({"$defs", "definitions"})


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


def expand(schema: Any, root: Any, within: tuple[str, ...] = ()) -> Any:
    """``schema`` with references into ``root`` replaced by what they mean, so that it stands alone.

    Within itself a definition is cut to its ``type``. What refers to elsewhere allows anything.
    """
    if isinstance(schema, list):
        return [expand(item, root, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    expanded: dict[str, Any] = {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = _target(reference, root)
        if reference not in within:
            expanded.update(expand(target, root, (*within, reference)))
        elif "type" in target:
            expanded["type"] = target["type"]
    for key, value in schema.items():
        if key in _DATA:
            expanded[key] = value
        elif key in _NAMED and isinstance(value, dict):
            expanded[key] = {name: expand(item, root, within) for name, item in value.items()}
        elif key != "$ref" and key not in _DEFINITIONS:
            expanded[key] = expand(value, root, within)
    return expanded


def _target(reference: str, root: Any) -> dict[str, Any]:
    """What a JSON pointer (``#/$defs/Point``) means in ``root``; ``{}`` when there is no schema there."""
    if not reference.startswith("#"):
        return {}
    found = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return {}
        found = found[name]
    return found if isinstance(found, dict) else {}


def _strings(schema: dict[str, Any]) -> dict[str, Any]:
    """What DSPy itself reads of an argument's schema, where it is what DSPy takes it for."""
    return {key: schema[key] for key in ("type", "description") if isinstance(schema.get(key), str)}
