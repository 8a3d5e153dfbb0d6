"""The package ``mcp``: imported on first use, and the same to its callers whether it is 1.x or 2.x."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge.dspy_runtime.mcp_process import Unusable

_log = logging.getLogger("bridge.mcp")


@dataclass(frozen=True)
class Sdk:
    """What is used of it."""

    types: Any
    #: ``ClientSession``.
    session: Any
    #: The variables that a server may see, and their values: none that could hold a key.
    environment: Callable[[], dict[str, str]]
    #: JSON to a message; raises ValueError.
    parse: Callable[[bytes], Any]
    #: A message as a session takes it.
    wrap: Callable[[Any], Any]


@functools.cache
def load() -> Sdk:
    """Import it, which takes a second.

    Raises:
        Unusable: it is not installed, or does not fit what else is.
    """
    try:
        from mcp import ClientSession, types
        from mcp.client.stdio import get_default_environment
        from mcp.shared.message import SessionMessage
        from pydantic import TypeAdapter
    except ImportError as error:
        missing = importlib.util.find_spec("mcp") is None
        if not missing:
            _log.warning("the package 'mcp' can not be imported", exc_info=error)
        reason = "is not installed" if missing else "does not fit what else is installed"
        raise Unusable(
            f"can not be used: the package 'mcp' {reason}. Run: pip install 'dspy-bridge[mcp]'"
        ) from None
    parse = TypeAdapter[Any](types.JSONRPCMessage).validate_json
    return Sdk(types, ClientSession, get_default_environment, parse, SessionMessage)


def to_json(message: Any) -> bytes:
    """A session's message as the line that it is on the wire, without its LF."""
    line: str = message.message.model_dump_json(by_alias=True, exclude_unset=True)
    return line.encode()


async def list_tools(session: Any) -> list[Any]:
    """The tools on all pages."""
    tools: list[Any] = []
    params = None
    cursors = set()
    while True:
        page = await session.list_tools(params=params)
        tools += page.tools
        cursor = either(page, "next_cursor", "nextCursor")
        if not cursor or cursor in cursors:  # a server that turns in circles
            return tools
        cursors.add(cursor)
        params = load().types.PaginatedRequestParams(cursor=cursor)


def either(owner: Any, name: str, name_before_2: str) -> Any:
    """A field of one of its objects, whose names changed with 2.0."""
    return getattr(owner, name) if hasattr(owner, name) else getattr(owner, name_before_2)
