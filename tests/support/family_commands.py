"""Commands for families of workers: ways to die, and state. Loaded with ``--commands``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from bridge import command

Fields = dict[str, Any]

_state: dict[str, Any] = {}


class SetArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``value`` and ``other`` are what is set under ``name``. Before that come ``pause_s`` and ``block_s``
    (the loop in hand); ``fail`` comes instead."""

    name: str = "default"
    value: Any = None
    other: Any = None
    pause_s: float = 0.0
    block_s: float = 0.0
    fail: bool = False


@command("fam.set", state="name")
async def set_state(args: SetArgs) -> Fields:
    """Set something, as ``configure`` does: what is left out stays."""
    await asyncio.sleep(args.pause_s)
    time.sleep(args.block_s)  # noqa: ASYNC251 - the loop is to be blocked
    if args.fail:
        raise ValueError("asked to fail")
    old = _state.get(args.name, {})
    new = {"value": args.value, "other": args.other}
    _state[args.name] = {**old, **{key: value for key, value in new.items() if value is not None}}
    return {"pid": os.getpid()}


@command("fam.get")
async def get_state(args: Fields) -> Fields:
    """What is set, and where."""
    await asyncio.sleep(args.get("pause_s", 0.0))
    return {"pid": os.getpid(), "state": _state}


@command("fam.die")
async def die(args: Fields) -> AsyncIterator[Fields]:
    """Send ``chunks`` chunks and end the process: ``how`` is ``exit``, ``segfault``, ``kill`` or ``abort``.

    With ``flag``, a path: only if there is no such directory, which is then made.
    """
    for number in range(args.get("chunks", 0)):
        yield {"type": "chunk", "n": number}
    await asyncio.sleep(args.get("pause_s", 0.02))  # what was sent leaves
    if (flag := args.get("flag")) is not None:
        try:
            os.mkdir(flag)
        except FileExistsError:
            yield {"type": "survived", "pid": os.getpid()}
            return
    _end(args["how"])


def _end(how: str) -> None:
    if how == "exit":
        os._exit(7)
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "abort": signal.SIGABRT}[how])


@command("fam.burn")
async def burn(args: Fields) -> Fields:
    """Compute for ``seconds``, the loop in hand."""
    until = time.monotonic() + args["seconds"]
    while time.monotonic() < until:
        pass
    return {"pid": os.getpid()}
