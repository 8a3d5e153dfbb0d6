"""What state-setting commands have set, so that workers forked later can be told."""

from __future__ import annotations

from typing import Any

import msgspec


class SharedState:
    """The calls to make in a new worker, in their order.

    Of the calls of one command about one thing only the merged args are kept: what a thousand calls of
    ``configure`` for the same name have set takes one call.
    """

    def __init__(self) -> None:
        self._fields: dict[str, tuple[str, Any]] = {}
        self._calls: dict[tuple[str, bytes], dict[str, Any]] = {}

    def declare(self, fields: dict[str, tuple[str, Any]]) -> None:
        """``fields``: by command, the field of its args that says what it sets, and that field's default."""
        self._fields = fields

    def note(self, command: str, args: dict[str, Any]) -> None:
        """``command`` was called with ``args`` and did it."""
        field, default = self._fields[command]
        key = (command, msgspec.json.encode(args.get(field, default)))
        self._calls[key] = {**self._calls.pop(key, {}), **args}

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Commands and their args."""
        return [(command, args) for (command, _), args in self._calls.items()]
