"""A command that tells what a worker of a family has imported since it was forked, and what it had before."""

from __future__ import annotations

import os
import sys
from typing import Any

from bridge import command

_at_fork: set[str] = set()
_had_prices: list[bool] = []


def _forked() -> None:
    _at_fork.update(sys.modules)
    _had_prices.append(getattr(sys.modules.get("dspy.clients.model_metadata"), "_data", None) is not None)


os.register_at_fork(after_in_child=_forked)


@command("kit.imported")
async def imported(args: dict[str, Any]) -> dict[str, Any]:
    """Names of modules, sorted; whether DSPy's price map was there."""
    return {"modules": sorted(set(sys.modules) - _at_fork), "had_prices": _had_prices[0]}
