"""DSPy as a request finds it: language models, signatures and adapters, each made once and shared."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING, Any

from bridge.dspy_runtime import adapters, executor, shortcuts
from bridge.dspy_runtime.lm import LmStore
from bridge.dspy_runtime.lm_build import is_plain
from bridge.dspy_runtime.mcp_servers import McpServers
from bridge.dspy_runtime.signatures import SignatureCache
from bridge.dspy_runtime.tool_shelf import ToolShelf
from bridge.options import MIB

if TYPE_CHECKING:
    from dspy.adapters import Adapter

    from bridge.options import ServeOptions

#: Longest event that a language model's stream may have.
MAX_EVENT_BYTES = 8 * MIB

_log = logging.getLogger("bridge.dspy")


class Runtime:
    """One per process. Its methods are called on the loop's thread."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.lms = LmStore(options)
        self.signatures = SignatureCache()
        self.mcp = McpServers(dict(options.mcp))
        self.tools = ToolShelf(options, self.mcp)
        self._inline = _inline_steps()
        _allow_long_events()
        shortcuts.install()

    def adapter(self, name: str) -> Adapter:
        """The shared adapter ``chat``, ``json`` or ``xml``."""
        return adapters.adapter(name)

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have DSPy's small steps run on ``loop`` without a thread."""
        if self._inline:
            executor.install(loop, self._inline)


def _inline_steps() -> dict[Any, Any]:
    """DSPy's functions that only compute, and when. Empty if this DSPy has others: it is then merely
    slower."""
    try:
        from dspy.clients.capabilities import capabilities
        from dspy.clients.engines.lm15_engine import AsyncLM15Engine
        from dspy.clients.execution import _price_result, prepare

        target = AsyncLM15Engine._target
    except (ImportError, AttributeError):
        _log.info("DSPy's calls are not as known; its small steps run in threads")
        return {}
    return {
        # An explicit Request may name local files to read.
        prepare: lambda lm, *args, **kwargs: "request" not in kwargs and is_plain(lm),
        capabilities: executor.FirstInThread(is_plain),
        _price_result: executor.FirstInThread(is_plain),
        target: executor.FirstInThread(),
    }


def _allow_long_events() -> None:
    """Have DSPy's engine take stream events of up to ``MAX_EVENT_BYTES``; it refuses a line over 64 KiB.

    Gemini and Ollama send a tool call, however long, in one event, and so do gateways that do not stream.
    """
    try:
        sse = importlib.import_module("dspy._vendor.lm15.sse")
        for parse in (sse.parse_sse, sse.aparse_sse):
            parse.__kwdefaults__.update(max_line_bytes=MAX_EVENT_BYTES, max_event_bytes=MAX_EVENT_BYTES)
    except (ImportError, AttributeError):
        _log.info("DSPy's engine is not as known; it may refuse long stream events")
