"""MCP servers as processes of their own: their tools, their failures and their ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridge.dspy_runtime import mcp_process, mcp_sdk, mcp_servers
from bridge.dspy_runtime.mcp_servers import McpServers
from bridge.errors import BridgeError, Code
from bridge.worker.lifecycle import Exit
from tests.conftest import Spawn
from tests.support.mcp_server import EXIT_CODE, LARGE, TOOLS
from tests.support.worker import ROOT, Worker, alive, wait_gone

SERVER = Path(__file__).parents[1] / "support" / "mcp_server.py"
#: Seconds that "at once" may take on a busy machine.
SOON = 5.0


def command(how: str) -> tuple[str, ...]:
    return sys.executable, str(SERVER), how


@asynccontextmanager
async def servers(*hows: str, **commands: tuple[str, ...]) -> AsyncIterator[McpServers]:
    """Servers of those kinds, named like them, and of ``commands``."""
    opened = McpServers({how: command(how) for how in hows} | commands)
    try:
        yield opened
    finally:
        await opened.aclose()


async def call(opened: McpServers, server: str, tool: str, /, **args: Any) -> Any:
    return await (await opened.tools(server))[tool].tool.acall(**args)


async def failure(awaited: Awaitable[Any], code: Code = Code.TOOL_ERROR) -> str:
    """What it fails with: a BridgeError of that code, and soon."""
    with pytest.raises(BridgeError) as caught:
        await asyncio.wait_for(awaited, SOON)
    assert caught.value.code == code
    return caught.value.message


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not happens():  # noqa: ASYNC110 - it happens in other processes and threads
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' workers, which may be kept for the next, are none of these tests' business."""
    monkeypatch.setattr(sys.modules[__name__], "OLDER", {child.pid for child in children()})


#: Pids of processes that were there before the test.
OLDER: set[int] = set()


def children() -> list[psutil.Process]:
    """The processes that the test has started and that were not waited for, and theirs."""
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in OLDER]


def test_tools_of_a_server_made_with_the_sdk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none-of-its-business")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    caplog.set_level(logging.INFO, "bridge.mcp")

    async def run() -> None:
        async with servers("sdk") as opened:
            tools = await opened.tools("sdk")
            assert [*tools] == ["add", "fail", "slow", "die", "note", "say", "variables"]
            add = tools["add"]
            assert (add.tool.name, add.tool.desc) == ("add", "Add two numbers.")
            assert {name: schema["type"] for name, schema in add.tool.args.items()} == {
                "a": "integer",
                "b": "integer",
            }
            assert (tools["add"].required, tools["note"].required) == (("a", "b"), ("text",))
            assert await add.tool.acall(a=1, b=2) == "3"
            with pytest.raises(ValueError, match="Arg a is invalid"):
                await add.tool.acall(a="one", b=2)
            assert json.loads(await tools["note"].tool.acall(text=None, tags=["x"])) == [None, ["x"]]
            assert json.loads(await tools["note"].tool.acall(text="a\u2028\n")) == ["a\u2028\n", None]
            with pytest.raises(RuntimeError, match="Error executing tool fail"):
                await tools["fail"].tool.acall()
            seen = await tools["variables"].tool.acall()
            assert "PATH" in seen
            assert {"OPENAI_API_KEY", "SOMETHING_ELSE"}.isdisjoint(seen)
            await tools["say"].tool.acall(text="hello\n" + "y" * 9000)
            assert opened.snapshot() == {"sdk": {"running": True, "tools": 7, "starts": 1}}

            # Others' calls go on beside one that takes its time, and after one that was cancelled.
            slow = asyncio.create_task(tools["slow"].tool.acall(seconds=60))
            await asyncio.sleep(0)
            assert await add.tool.acall(a=2, b=2) == "4"
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(slow, SOON)
            assert await tools["slow"].tool.acall(seconds=0) == "slept"
            assert "exited with code 3 when it had to run 'die'" in await failure(tools["die"].tool.acall())
            assert opened.snapshot()["sdk"] == {"running": False, "tools": 7, "starts": 1}

    asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if record.name == "bridge.mcp"]
    assert "sdk: hello" in said
    assert "sdk: " + "y" * mcp_process.MAX_LOG_BYTES in said
    assert max(map(len, said)) < mcp_process.MAX_LOG_BYTES + 10
    out, err = capfd.readouterr()
    assert not out
    assert "hello" not in err


def test_schemas_come_whole_and_stand_alone() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            tools = await opened.tools("plain")
            assert [*tools] == [tool["name"] for tool in TOOLS]  # one a page
            shapes = tools["shapes"]
            assert shapes.required == ("point",)
            assert shapes.tool.args == {
                "point": {
                    "type": "object",
                    "properties": {"x": {"type": ["number", "null"]}},
                    "required": ["x"],
                    "description": "Where.",
                },
                "tree": {"type": "object", "properties": {"left": {"type": "object"}}},
                "old": {"type": "array", "items": {"type": "integer"}},
                "far": {"description": "Elsewhere."},
                "gone": {},
                "anything": {},
                "choice": {"type": ["integer", "string"], "enum": [1, "two"], "default": 1},
                "default": {"enum": [{"$ref": "#/$defs/Point"}]},
            }
            assert shapes.tool.arg_types["choice"] is Any
            assert shapes.tool.arg_types["point"] is dict
            echo = tools["echo"].tool
            assert echo.args == {"value": {"type": ["string", "null"], "minLength": 2}}
            assert json.loads(await echo.acall(value=None)) == {"value": None}
            assert json.loads(await echo.acall(value="ab")) == {"value": "ab"}
            with pytest.raises(ValueError, match="Arg value is invalid"):
                await echo.acall(value="a")

    asyncio.run(run())


def test_large_messages_go_both_ways() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            assert len(await call(opened, "plain", "large")) == LARGE
            text = "ab" * LARGE
            assert json.loads(await call(opened, "plain", "echo", value=text)) == {"value": text}

    asyncio.run(run())


def test_a_message_that_is_too_large_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_process, "MAX_MESSAGE_BYTES", 2**20)

    async def run() -> None:
        async with servers("plain") as opened:
            assert "sent a message of more than 1 MB" in await failure(call(opened, "plain", "large"))
            assert await call(opened, "plain", "grow") == "grown"

    asyncio.run(run())


def test_tools_are_listed_again_when_they_have_changed() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            assert "new" not in await opened.tools("plain")
            await call(opened, "plain", "grow")
            for _ in range(100):
                if "new" in (tools := await opened.tools("plain")):
                    break
                await asyncio.sleep(0.01)
            assert "new" in tools

    asyncio.run(run())


def test_what_a_server_prints_to_stdout_by_mistake_does_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        async with servers("noisy") as opened:
            assert await call(opened, "noisy", "grow") == "grown"

    asyncio.run(run())
    assert not capfd.readouterr().out


def test_first_calls_at_once_start_one_process() -> None:
    async def run() -> None:
        async with servers("plain", "mute") as opened:
            assert opened.names() == ("plain", "mute")
            assert not children()
            pids = await asyncio.gather(*(call(opened, "plain", "pid") for _ in range(20)))
            assert len({*pids}) == 1
            assert opened.snapshot() == {
                "plain": {"running": True, "tools": len(TOOLS), "starts": 1},
                "mute": {"running": False, "tools": 0, "starts": 0},
            }

    asyncio.run(run())


def test_who_is_cancelled_does_not_take_the_server_with_him() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            first = asyncio.create_task(opened.tools("plain"))
            await asyncio.sleep(0)
            others = [asyncio.create_task(call(opened, "plain", "pid")) for _ in range(2)]
            await asyncio.sleep(0)
            first.cancel()
            others[0].cancel()
            pid = await others[1]
            assert first.cancelled()

            hanging = [asyncio.create_task(call(opened, "plain", "hang")) for _ in range(20)]
            await asyncio.sleep(0)
            assert await call(opened, "plain", "pid") == pid  # when this is answered, those have been sent
            for task in hanging:
                task.cancel()
            await asyncio.wait(hanging, timeout=SOON)
            assert all(task.cancelled() for task in hanging)
            assert await call(opened, "plain", "pid") == pid
            assert opened.snapshot()["plain"]["starts"] == 1

    asyncio.run(run())


def test_calls_in_flight_when_the_server_dies_fail_and_the_next_starts_it_again() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            tools = await opened.tools("plain")
            pid = await tools["pid"].tool.acall()
            hanging = asyncio.create_task(tools["hang"].tool.acall())
            await asyncio.sleep(0)
            assert await tools["pid"].tool.acall() == pid
            why = f"The MCP server 'plain' exited with code {EXIT_CODE} when it had to run"
            again = "Its next use starts it again."
            assert await failure(tools["die"].tool.acall()) == f"{why} 'die'. {again}"
            assert await failure(hanging) == f"{why} 'hang'. {again}"
            assert opened.snapshot()["plain"] == {"running": False, "tools": len(TOOLS), "starts": 1}
            # Tools outlive the process: an agent goes on with those it has.
            second = await tools["pid"].tool.acall()
            assert second != pid
            hanging = asyncio.create_task(tools["hang"].tool.acall())
            await asyncio.sleep(0)
            assert await tools["pid"].tool.acall() == second
            os.kill(int(second), signal.SIGKILL)
            assert "was killed by SIGKILL when it had to run 'hang'" in await failure(hanging)
            assert [*await opened.tools("plain")] == [*tools]
            assert opened.snapshot()["plain"] == {"running": True, "tools": len(TOOLS), "starts": 3}

    asyncio.run(run())


def test_an_error_that_the_server_answers_is_told() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            message = await failure(call(opened, "plain", "error"))
            assert message == "The MCP server 'plain' could not run 'error' (no such argument)."

    asyncio.run(run())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("exits", "exited with code 3 before it was ready. Its stderr is in the log at level info."),
        ("mute", "did not answer 'initialize' within 1 s. Check that its command in --mcp starts a server"),
        ("lists", "could not list its tools within 1 s."),
        ("refusing", "did not accept 'initialize' (not you)."),
        ("broken", "did not accept 'initialize' (its answer does not keep to the protocol)."),
        (
            "missing",
            "can not be started: there is no command 'no-such-server'. Install it, or correct --mcp.",
        ),
        ("denied", "can not be started: 'denied': permission denied. Correct --mcp."),
    ],
)
def test_servers_that_can_not_be_used(
    how: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how in ("mute", "lists"):
        monkeypatch.setattr(mcp_servers, "START_TIMEOUT_S", 1.0)
    denied = tmp_path / "denied"
    denied.write_text("")
    others = {"missing": (str(tmp_path / "no-such-server"), "x"), "denied": (str(denied),)}

    async def run() -> None:
        async with servers(**{how: others.get(how, command(how))}) as opened:
            messages = await asyncio.gather(*(failure(opened.tools(how)) for _ in range(3)))
            assert len({*messages}) == 1
            assert f"The MCP server {how!r} {told}" in messages[0]
            assert "/" not in messages[0]
            await failure(opened.tools(how))  # it is tried again
            assert opened.snapshot()[how]["starts"] == (1 if how == "lists" else 2)

    asyncio.run(run())
    assert not children()


def test_pages_without_end_end() -> None:
    async def run() -> None:
        async with servers("circling") as opened:
            assert [*await opened.tools("circling")] == ["pid"]

    asyncio.run(run())


def test_unknown_servers_and_those_that_there_are() -> None:
    async def run() -> None:
        async with servers("plain") as opened:
            message = await failure(opened.tools("plane"), Code.UNKNOWN_TOOL)
            assert message == "Unknown MCP server: plane. There are: plain."
        assert "none: name them with --mcp" in await failure(McpServers({}).tools("x"), Code.UNKNOWN_TOOL)

    asyncio.run(run())


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mcp_sdk.load.cache_clear()
    monkeypatch.setitem(sys.modules, "mcp", None)

    async def run() -> None:
        async with servers("plain") as opened:
            message = await failure(opened.tools("plain"))
            assert message.endswith(
                "the package 'mcp' is not installed. Run: pip install 'dspy-bridge[mcp]'."
            )

    asyncio.run(run())


def test_the_package_is_imported_on_first_use() -> None:
    code = "from bridge.dspy_runtime import mcp_servers; mcp_servers.McpServers({'a': ('b',)})"
    code += "; import sys; print('mcp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


def test_closing_ends_what_hangs_and_what_refuses_to_end() -> None:
    async def run() -> None:
        opened = McpServers({how: command(how) for how in ("plain", "stubborn", "mute")})
        pids = [int(await call(opened, how, "pid")) for how in ("plain", "stubborn")]
        hanging = asyncio.create_task(call(opened, "plain", "hang"))
        await asyncio.sleep(0)
        await call(opened, "plain", "pid")
        starting = asyncio.create_task(opened.tools("mute"))
        await until(lambda: len(children()) == 3)
        begin = time.monotonic()
        await opened.aclose()
        assert time.monotonic() - begin < mcp_servers.END_S + 0.5
        assert not children()
        assert not [pid for pid in pids if alive(pid)]
        assert "was closed at the worker's end when it had to run 'hang'" in await failure(hanging)
        assert "was closed at the worker's end" in await failure(starting)
        assert "is closed: the worker ends" in await failure(opened.tools("plain"))
        await opened.aclose()

    asyncio.run(run())


def test_a_whole_process_group_is_ended() -> None:
    async def run() -> None:
        # As with npx: the server is the child of what was started, and outlives it.
        async with servers(shell=("/bin/sh", "-c", '"$@"; true', "sh", *command("stubborn"))) as opened:
            pid = int(await call(opened, "shell", "pid"))
            assert pid not in [child.pid for child in psutil.Process().children()]
        wait_gone(pid, SOON)

    asyncio.run(run())


def test_many_restarts_leave_nothing_behind() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def run() -> None:
        async with servers("plain", "exits") as opened:
            counts = []
            for _ in range(12):
                await failure(call(opened, "plain", "die"))
                await failure(opened.tools("exits"))
                await until(lambda: not children() and len(asyncio.all_tasks()) == 1)
                await until(lambda: not [t for t in threading.enumerate() if "waitpid" in t.name])
                counts.append((open_files(), threading.active_count()))
            assert counts[2:] == [counts[2]] * 10
            assert opened.snapshot()["plain"]["starts"] == 12

    asyncio.run(run())


# ---- in a worker -------------------------------------------------------------------------------------

COMMANDS = """
    from bridge.context import Context
    from bridge.dspy_runtime import loader
    from bridge.registry import command

    @command("mcp.call")
    async def call(args: dict, ctx: Context) -> dict:
        tools = await (await loader.runtime(ctx.options)).mcp.tools(args["server"])
        return {"said": await tools[args["tool"]].tool.acall()}
"""


@pytest.fixture
def worker(spawn: Spawn, tmp_path: Path) -> Worker:
    """A worker with a server of each kind that has a command to call their tools."""
    (tmp_path / "mcp_commands.py").write_text(textwrap.dedent(COMMANDS))
    flags = [
        f"--mcp={how}={sys.executable} {SERVER} {how}" for how in ("plain", "stubborn", "noisy", "exits")
    ]
    return spawn(
        "--commands", "mcp_commands", "--log-level", "info", *flags, env={"PYTHONPATH": str(tmp_path)}
    )


def pid_of(worker: Worker, server: str) -> int:
    return int(worker.call("mcp.call", {"server": server, "tool": "pid"})["said"])


def test_a_worker_drains_and_ends_its_servers(worker: Worker) -> None:
    assert "mcp" not in worker.call("stats")["dspy"]  # nothing is loaded
    pids = [pid_of(worker, how) for how in ("plain", "stubborn", "noisy")]
    assert worker.call("mcp.call", {"server": "exits", "tool": "pid"})["code"] == "tool_error"
    assert worker.call("stats")["dspy"]["mcp"]["plain"] == {
        "running": True,
        "tools": len(TOOLS),
        "starts": 1,
    }
    worker.control("shutdown")
    worker.type("bye")
    assert worker.wait() == 0
    assert not [pid for pid in pids if alive(pid)]
    logged = [json.loads(line) for line in worker.log().splitlines()]
    assert ("bridge.mcp", "exits: no configuration") in [(line["logger"], line["message"]) for line in logged]


def test_servers_end_with_a_worker_whose_host_is_gone(worker: Worker) -> None:
    pids = [pid_of(worker, how) for how in ("plain", "stubborn")]
    worker.request("mcp.call", {"server": "plain", "tool": "hang"})
    worker.stdout.close()
    worker.stdin.close()
    assert worker.wait(SOON) == Exit.HOST_GONE
    for pid in pids:
        wait_gone(pid, SOON)


def test_servers_that_heed_the_end_of_stdin_end_with_a_worker_that_is_killed(worker: Worker) -> None:
    pid = pid_of(worker, "plain")
    worker.request("mcp.call", {"server": "plain", "tool": "hang"})
    worker.process.kill()
    wait_gone(pid, SOON)
