"""A command that tells what a worker of a family has imported since it was forked."""

from __future__ import annotations

import os
import sys
from typing import Any

from bridge import command

_at_fork: set[str] = set()
os.register_at_fork(after_in_child=lambda: _at_fork.update(sys.modules))


@command("kit.imported")
async def imported(args: dict[str, Any]) -> dict[str, Any]:
    """Names of modules, sorted."""
    return {"modules": sorted(set(sys.modules) - _at_fork)}
