"""What supervisor and template say to each other."""

from __future__ import annotations

from typing import Any, Final

import msgspec

#: The environment variable that makes a process a template, and names its socket.
VARIABLE: Final = "DSPY_BRIDGE_TEMPLATE_FD"
#: Asks for a worker; the socket it is to have comes along.
FORK: Final = b"fork"
MESSAGE_BYTES: Final = 1 << 20


class Report(msgspec.Struct, omit_defaults=True):
    """What a template tells, one thing at a time.

    ``commands``: their names, and with them ``states``: of those that set state, the field of their args
    that says what, and its default. ``warm``: seconds that importing DSPy took. ``born``: a worker's pid; its
    pidfd comes along where there is such a thing. ``died``: a pid and the status that waitpid(2) gave.
    """

    commands: list[str] | None = None
    states: dict[str, tuple[str, Any]] = {}
    warm: float | None = None
    born: int | None = None
    died: tuple[int, int] | None = None
