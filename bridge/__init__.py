"""Run DSPy from any language: a worker that speaks line-delimited JSON over stdin and stdout."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bridge._version import __version__

if TYPE_CHECKING:
    from bridge.client import Client, Pool
    from bridge.context import Context
    from bridge.errors import BridgeError, Code, invalid_args
    from bridge.registry import command
    from bridge.wire.messages import Chunk, FinalChunk, final

__all__ = [
    "BridgeError",
    "Chunk",
    "Client",
    "Code",
    "Context",
    "FinalChunk",
    "Pool",
    "__version__",
    "command",
    "final",
    "invalid_args",
]

# Names are imported when they are used: `import bridge` comes before the descriptors are guarded and
# counts towards every start.
_HOMES = {
    "BridgeError": "bridge.errors",
    "Chunk": "bridge.wire.messages",
    "Client": "bridge.client",
    "Code": "bridge.errors",
    "Context": "bridge.context",
    "FinalChunk": "bridge.wire.messages",
    "Pool": "bridge.client",
    "command": "bridge.registry",
    "final": "bridge.wire.messages",
    "invalid_args": "bridge.errors",
}


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'bridge' has no attribute {name!r}")
