"""Finding the commands that installed packages bring, without paying for it when there are none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

GROUP = "dspy_bridge.commands"


def find_command_modules() -> list[str]:
    """The modules in the entry point group ``dspy_bridge.commands``, in the order of their names."""
    if not any(_may_have_commands(entry) for entry in sys.path):
        return []
    from importlib.metadata import entry_points  # 15 ms of imports: only where something was found

    return [entry.value for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)]


def _may_have_commands(entry: str) -> bool:
    """Whether a directory of ``sys.path`` holds a distribution that names the group."""
    try:
        names = os.listdir(entry or ".")
    except NotADirectoryError:
        return True  # a zip file: only importlib.metadata can tell
    except OSError:
        return False
    return any(_names_group(os.path.join(entry, name, "entry_points.txt")) for name in _distributions(names))


def _distributions(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if name.endswith((".dist-info", ".egg-info")))


def _names_group(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return GROUP.encode() in file.read()
    except OSError:
        return False
