"""A worker's start: what ``ready`` does not wait for, and what may happen before and right after it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.support.worker import PATIENCE, ROOT, Worker, command_line, environment, types

#: What ``ready`` must not wait for.
LATER = {"asyncio", "concurrent", "dataclasses", "inspect", "json", "logging", "orjson", "socket", "ssl"}
LATER |= {"subprocess", "threading", "traceback", "typing_extensions"}

#: Commands with names of all kinds, and enough of them that ``ready`` fits no single write to a full pipe.
MANY = """
import bridge
for name in ["é", "a\\u2028b", "\\ud800", *(f"padding_{number}" * 8 for number in range(100))]:
    @bridge.command(name)
    async def handler(args: dict) -> dict:
        return args
"""


def python(code: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE)
    return done.stdout


def test_ready_waits_for_no_import_that_can_come_later() -> None:
    loaded = python(
        """
        import os, sys
        from bridge.light_msgspec import import_msgspec
        before = set(sys.modules)
        import_msgspec()
        from bridge import start
        names = start.load_commands(()).names()
        start.Signals()
        unsent = start.announce(start.parse_serve([], {}), names, os.open(os.devnull, os.O_WRONLY))
        assert unsent == b"", unsent
        print(*set(sys.modules) - before)
        """
    )
    assert LATER.isdisjoint(loaded.split())


def test_garbage_is_collected_when_the_worker_runs() -> None:
    told = python(
        """
        import gc, os
        from bridge import start
        from bridge.worker import worker
        worker.serve = lambda *args: gc.isenabled()
        gc.disable()
        null = os.open(os.devnull, os.O_RDWR)
        os.write(1, b"%d" % start.start_worker([], null, null))
        """
    )
    assert told == "1"


def test_msgspec_does_not_miss_typing_extensions() -> None:
    """What types can say with typing_extensions means the same with and without the detour."""
    code = """
        import sys
        {first}
        import msgspec, typing, typing_extensions
        from typing_extensions import Annotated, Literal, NotRequired, Required, TypedDict

        class Row(TypedDict, total=False):
            a: Required[int]
            b: NotRequired[Annotated[str, msgspec.Meta(min_length=2)]]

        class Args(msgspec.Struct):
            row: Row
            kind: Literal["x", "y"]
            more: "typing.Optional[Args]" = None

        for line in (b'{{"row":{{"a":1,"b":"bb"}},"kind":"x"}}', b'{{"row":{{"b":"bb"}},"kind":"x"}}',
                     b'{{"row":{{"a":1,"b":"b"}},"kind":"x"}}', b'{{"row":{{"a":1}},"kind":"z"}}'):
            try:
                print(msgspec.json.decode(line, type=Args))
            except msgspec.ValidationError as error:
                print(error)
        print(msgspec.json.schema(Args))
        """
    light = "from bridge.light_msgspec import import_msgspec; import_msgspec()"
    known = "import typing_extensions"
    assert "missing required field" in (usual := python(code.format(first=known)))
    assert python(code.format(first=light)) == python(code.format(first=f"{known}; {light}")) == usual


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_ready_drains(number: signal.Signals) -> None:
    with Worker(commands=False) as worker:
        worker.process.send_signal(number)
        assert worker.next() == {"id": None, "type": "bye", "reason": "signal"}
        assert worker.process.wait(PATIENCE) == 0


def test_a_host_that_ends_right_after_ready_is_seen() -> None:
    with subprocess.Popen(
        command_line(commands=False),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 3


def test_ready_may_be_long_and_have_names_of_all_kinds(framing: str, spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "many_commands.py").write_text(MANY)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    worker = spawn("--commands", "many_commands", framing=framing, commands=False, env=env)
    names = worker.ready["commands"]
    assert {"é", "a\u2028b", "\ufffd"} < set(names)
    assert sum(name.startswith("padding") for name in names) == 100
    assert "\u2028".encode() not in worker.raw
    assert worker.call("ping")["type"] == "pong"


def test_ready_that_finds_a_full_pipe_follows_when_there_is_room() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    size = 0
    while select.select([], [write_end], [], 0)[1]:
        size += os.write(write_end, b"." * select.PIPE_BUF)
    os.set_blocking(write_end, True)
    pipes = {"stdin": subprocess.PIPE, "stdout": write_end, "stderr": subprocess.PIPE}
    with subprocess.Popen(command_line(), cwd=ROOT, env=environment(), **pipes) as process:  # type: ignore[call-overload]  # descriptors of all kinds
        os.close(write_end)
        process.stdin.write(b'{"id":1,"command":"kit.context"}\n')
        process.stdin.close()
        assert b"hello from kit.context" in process.stderr.readline()  # it works, unread as its `ready` is
        with open(read_end, "rb") as file:
            lines = file.read()[size:].splitlines()
        assert types([json.loads(line) for line in lines]) == ["ready", "result", "bye"]
        assert process.wait(PATIENCE) == 0
