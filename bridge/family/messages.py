"""What supervisor and template say to each other."""

from __future__ import annotations

import os
import socket
from typing import Any, Final

import msgspec

#: Asks for a worker; the socket it is to have comes along.
FORK: Final = b"fork"
#: Tells of a worker that an earlier template has forked; its pidfd comes along.
ADOPT: Final = b"adopt"
#: The longest message: the commands' names, which come first, and any other. (Python makes a buffer of that
#: size for each, and one of a megabyte costs half a millisecond.)
FIRST_BYTES: Final = 1 << 20
MESSAGE_BYTES: Final = 1 << 12


def receive(control: socket.socket, size: int = MESSAGE_BYTES) -> tuple[bytes, int | None]:
    """One message and the descriptor that came with it; the message is empty at the end.

    (:func:`socket.recv_fds` of Python 3.11 does not pass its flags on: it can be told neither not to wait
    nor to have descriptors closed on exec.)

    :raises BlockingIOError: nothing is there, and the socket does not block.
    """
    try:
        message, fds, _, _ = socket.recv_fds(control, size, 1)
    except BlockingIOError:
        raise
    except OSError:
        return b"", None
    for fd in fds:
        os.set_inheritable(fd, False)
    return message, fds[0] if fds else None


class Report(msgspec.Struct, omit_defaults=True):
    """What a template tells, one thing at a time.

    ``commands``: their names, and with them ``states``: of those that set state, the field of their args
    that says what, and its default. ``warm``: seconds that importing DSPy took. ``born``: a worker's pid; its
    pidfd comes along where there is such a thing. ``not_born``: why there is none.
    ``died``: a pid and the status that waitpid(2) gave.
    """

    commands: list[str] | None = None
    states: dict[str, tuple[str, Any]] = {}
    warm: float | None = None
    born: int | None = None
    not_born: str | None = None
    died: tuple[int, int] | None = None
