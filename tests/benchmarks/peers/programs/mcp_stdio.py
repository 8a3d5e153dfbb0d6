"""An MCP server on stdio: a tool that reports its progress for each chunk, and one that answers."""

from __future__ import annotations

from mcp.server.mcpserver import Context, MCPServer

from tests.benchmarks.payloads import TEXTS

server = MCPServer("bench")


@server.tool()
async def stream(count: int, text: str, ctx: Context) -> str:
    """``count`` progress notifications; the text is their message."""
    message = TEXTS[text]
    for seq in range(count):
        await ctx.report_progress(seq, count, message)
    return "complete"


@server.tool()
async def answer() -> str:
    """One short answer."""
    return TEXTS["80b"]


if __name__ == "__main__":
    server.run("stdio")
