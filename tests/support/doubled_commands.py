"""Registers a name that tests.support.commands has registered."""

from __future__ import annotations

from typing import Any

from bridge import command


@command("kit.echo")
async def echo(args: dict[str, Any]) -> dict[str, Any]:
    """The second of its name."""
    return args
