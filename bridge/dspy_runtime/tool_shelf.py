"""The tools a worker was started with: functions of Python modules and tools of MCP servers."""

from __future__ import annotations

import difflib
import functools
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from bridge.dspy_runtime.tools import Definition, from_function
from bridge.errors import BridgeError, Code
from bridge.tool_modules import SEPARATOR, tool_functions, tool_names

if TYPE_CHECKING:
    import dspy

    from bridge.dspy_runtime.mcp_servers import McpServers
    from bridge.options import ServeOptions


class ToolShelf:
    """The functions go by their names, the tools of MCP servers are called ``server__tool``."""

    def __init__(self, options: ServeOptions, mcp: McpServers) -> None:
        self._functions = tool_functions(options.tools)
        self._names = tool_names(options)
        self._known: dict[str, Definition] = {}
        self._mcp = mcp

    async def pick(self, name: str) -> list[Definition]:
        """The tool of that name, or all that a pattern (``*``, ``files__*``, ``get_?``) matches. Starts the
        MCP servers that can have it.

        Raises:
            BridgeError: ``unknown_tool``; ``tool_error`` when a server can not be used.
        """
        found = [self._function(each) for each in self._functions if fnmatchcase(each, name)]
        for server in self._mcp.names():
            prefix = server + SEPARATOR
            if name.startswith(prefix) or fnmatchcase(prefix, name.partition(SEPARATOR)[0] + "*"):
                found += [
                    Definition(
                        prefix + own,
                        each.tool.desc or "",
                        each.tool.args or {},
                        each.required,
                        functools.partial(_call, each.tool),
                    )
                    for own, each in (await self._mcp.tools(server)).items()
                    if fnmatchcase(prefix + own, name)
                ]
        if found:
            return found
        names = self._names
        near = difflib.get_close_matches(name, names, n=3)
        there = f"There are: {', '.join(names)}." if names else "It was started with none (--tools, --mcp)."
        raise BridgeError(
            f"The worker has no tool {name[:100]!r}. {there}",
            code=Code.UNKNOWN_TOOL,
            details={"did_you_mean": near} if near else None,
        )

    def _function(self, name: str) -> Definition:
        if name not in self._known:
            self._known[name] = from_function(name, self._functions[name])
        return self._known[name]


async def _call(tool: dspy.Tool, arguments: dict[str, Any]) -> Any:
    # Not through DSPy's own check of the arguments: they have been checked, and without patterns.
    return await tool.func(**arguments)
