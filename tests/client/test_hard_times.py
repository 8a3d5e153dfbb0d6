"""What a review broke: options that are none, lines too long, workers that hang or recycle at bad moments."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.client import (
    Chunk,
    Client,
    ClientClosed,
    Pool,
    RequestError,
    SyncClient,
    Tool,
    WorkerDied,
)
from tests.client.running import KIT, ROOT, alive, fails, run, until

READY = 'print(\'{"id":null,"type":"ready","pid":1}\', flush=True)\n'


@asynccontextmanager
async def pool(*flags: str, workers: int = 2) -> AsyncIterator[Pool]:
    async with Pool(*KIT, *flags, workers=workers, cwd=ROOT) as running:
        yield running


@pytest.mark.parametrize("kind", [Client, Pool, SyncClient])
def test_options_of_the_wrong_type_are_refused_at_once(kind: Callable[..., Any]) -> None:
    with pytest.raises(TypeError):
        kind("--max-requests", 5)
    with pytest.raises(TypeError):
        kind(env={"A": 1})
    for pipe in (subprocess.PIPE, subprocess.STDOUT):
        with pytest.raises(ValueError, match="stderr"):
            kind(stderr=pipe)


def test_timeouts_and_retries_are_finite_numbers() -> None:
    for options in ({"timeout": float("inf")}, {"retries": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Client().stream("ping", **options)


def test_configuring_workers_that_recycle_all_the_time() -> None:
    async def main() -> None:
        async with pool("--max-requests", "5") as workers:
            echoes = [asyncio.create_task(workers.call("kit.echo", {"n": n})) for n in range(60)]
            for _ in range(5):
                assert (await workers.configure(name="m", lm={"model": "scripted"}))["name"] == "m"
            answers = [(await echo)["echo"]["n"] for echo in echoes]
            assert answers == list(range(60))

    run(main())


def test_a_configuration_that_can_not_work_harms_nobody() -> None:
    async def main() -> None:
        async with pool(workers=1) as workers:
            await workers.configure(name="x", lm={"model": "scripted"})
            for args in ({"lm": object()}, {"lm": {"model": "scripted", "nope": 1}}):
                os.kill(workers.pids[0], signal.SIGKILL)
                bad = asyncio.create_task(workers.configure(name="x", **args))
                assert (await workers.call("ping", retries=1)).type == "pong"
                with pytest.raises((ValueError, RequestError)):
                    await bad
            answer = await workers.call("stream_predict", {"question": "?", "lm": "x"})
            assert answer.scripted

    run(main())


def test_overlapping_configurations_keep_the_good_one() -> None:
    async def main() -> None:
        async with pool(workers=1) as workers:
            bad, good = await asyncio.gather(
                workers.configure(name="x", lm={"model": "scripted", "nope": 1}),
                workers.configure(name="x", lm={"model": "scripted"}),
                return_exceptions=True,
            )
            assert isinstance(bad, RequestError)
            assert isinstance(good, Chunk)
            os.kill(workers.pids[0], signal.SIGKILL)
            args = {"question": "?", "lm": "x"}
            assert (await workers.call("stream_predict", args, retries=1)).scripted

    run(main())


def test_configure_keeps_to_its_time_and_is_for_all() -> None:
    async def main() -> None:
        async with pool(workers=1) as workers:
            with pytest.raises(ValueError, match="all workers"):
                workers.stream("configure", {"name": "x"})
            os.kill(workers.pids[0], signal.SIGSTOP)
            args = {"name": "x", "lm": {"model": "scripted"}}
            error = await fails(workers.call("configure", args, timeout=0.1), "deadline_exceeded")
            assert error.retryable
            assert (await workers.call("ping", retries=1)).type == "pong"

    run(main())


@pytest.mark.parametrize("what", ["request", "tool"])
def test_lines_longer_than_the_worker_reads(what: str) -> None:
    big = "x" * 200_000

    async def main() -> None:
        async with Client(*KIT, "--max-line-bytes", "100000", cwd=ROOT) as client:
            if what == "request":
                error = await fails(client.call("kit.echo", {"x": big}), "line_too_long")
                assert "100000" in error.message
                assert client.in_flight == 0
            else:
                result = await client.call("kit.tool", {"name": "t"}, tools={"t": lambda: big})
                assert "up to 100000 can be sent" in result["error"]
            assert (await client.call("ping")).type == "pong"

    run(main())


def test_time_passes_while_a_request_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.link.OVERDUE_S", 0.1)

    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            os.kill(client.ready["pid"], signal.SIGSTOP)
            calls = [
                client.call("kit.echo", {"x": "x" * 4_000_000}, timeout=0.2),
                client.call("ping", timeout=0.2),
            ]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, RequestError)
                assert outcome.code == "deadline_exceeded"
            given_up = asyncio.create_task(client.call("kit.echo", {"x": "x" * 4_000_000}))
            await until(lambda: client.in_flight == 1)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert client.in_flight == 0

    run(main())


def test_a_pool_replaces_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.link.OVERDUE_S", 0.1)

    async def main() -> None:
        async with pool() as workers:
            await workers.wait_ready()
            hung = workers.pids[0]
            os.kill(hung, signal.SIGSTOP)
            outcomes = await asyncio.gather(
                *(workers.call("ping", timeout=0.2) for _ in range(4)), return_exceptions=True
            )
            codes = {each.code for each in outcomes if isinstance(each, RequestError)}
            assert codes <= {"deadline_exceeded", "worker_died"}
            assert codes
            await workers.wait_ready()
            assert hung not in workers.pids
            assert [(await workers.call("ping", timeout=20)).type for _ in range(4)] == ["pong"] * 4

    run(main())


def test_two_cancels_during_the_start_leave_no_worker(tmp_path: Any) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"

    async def main() -> None:
        client = Client(argv=[sys.executable, "-c", code])
        task = asyncio.create_task(client.start())
        await until(lambda: pid_file.exists() and pid_file.read_text() != "")
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not alive(int(pid_file.read_text())))

    run(main())


def test_a_start_may_be_tried_again_and_a_close_is_the_end() -> None:
    async def main() -> None:
        client = Client(*KIT, cwd=ROOT)
        first = asyncio.create_task(client.start())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="started already"):
            await client.start()
        await first
        await client.close()
        with pytest.raises(RuntimeError, match="make another"):
            await client.start()
        closing = Client(*KIT, cwd=ROOT)
        starting = asyncio.create_task(closing.start())
        await asyncio.sleep(0)
        await closing.close()
        with pytest.raises(RequestError):
            await starting

    run(main())


def test_waiting_for_a_pool_that_will_not_be_ready() -> None:
    async def main() -> None:
        idle = Pool(*KIT, workers=1, cwd=ROOT)
        await fails(idle.wait_ready(), "closed")
        async with pool(workers=1) as workers:
            with pytest.raises(ValueError, match="1 workers"):
                await workers.wait_ready(2)
            os.kill(workers.pids[0], signal.SIGSTOP)
            os.kill(workers.pids[0], signal.SIGKILL)
            await until(lambda: not workers.pids)
            waiting = asyncio.create_task(workers.wait_ready())
            await asyncio.sleep(0)
            await workers.close()
            with pytest.raises(ClientClosed):
                await waiting

    run(main())


def test_cancelled_while_it_waits_for_a_worker() -> None:
    async def main() -> None:
        async with pool(workers=1) as workers:
            os.kill(workers.pids[0], signal.SIGKILL)
            await until(lambda: not workers.pids)
            stream = workers.stream("kit.hold", {"gate": "g"})
            reading = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            stream.cancel()
            with pytest.raises(RequestError, match="before it was sent"):
                await reading

    run(main())


who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def test_tools_run_on_behalf_of_whoever_asked() -> None:
    async def ask(client: Client, name: str) -> str:
        who.set(name)
        result = await client.call("kit.tool", {"name": "t"}, tools={"t": lambda: who.get()})
        return str(result["value"])

    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            asked = [asyncio.create_task(ask(client, name)) for name in ("ada", "bob")]
            assert [await each for each in asked] == ["ada", "bob"]

    run(main())
    with SyncClient(*KIT, cwd=ROOT) as client:
        who.set("main")
        assert client.call("kit.tool", {"name": "t"}, tools={"t": lambda: who.get()})["value"] == "main"


def failing() -> None:
    pytest.fail("no")


def interrupted() -> None:
    raise KeyboardInterrupt


async def gives_up() -> None:
    raise asyncio.CancelledError


async def awaits_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


@pytest.mark.parametrize("tool", [failing, interrupted, gives_up, awaits_a_cancelled_task])
def test_whatever_a_tool_raises_reaches_the_model(tool: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            result = await client.call("kit.tool", {"name": "t"}, tools={"t": tool})
            assert result["code"] == "tool_error"
            assert (await client.call("ping")).type == "pong"

    run(main())


def test_tools_by_other_names_and_of_other_kinds() -> None:
    def find(where: str, limit: int = 3) -> str:
        """Finds."""
        return f"{where} {limit}"

    few = Tool(functools.partial(find, limit=1))
    assert (few.name, few.description, list(few.args)) == ("find", "Finds.", ["where"])
    with pytest.raises(TypeError, match="does not tell its arguments"):
        Tool(max)

    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            for tools in ({"b": Tool(find, name="find")}, {"b": few}):
                args = {"name": "b", "args": {"where": "here"}}
                result = await client.call("kit.tool", args, tools=tools)
                assert result["value"].startswith("here")

    run(main())


def test_errors_travel() -> None:
    died = WorkerDied("gone", details={"exit_code": 1})
    refused = RequestError("no", code="overloaded", retryable=True, retry_after_ms=5)
    for error in (died, refused):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert again.__dict__ == error.__dict__


def test_only_done_true_is_an_end_and_only_an_error_is_a_refusal() -> None:
    chunks = """\
{"id":1,"seq":0,"type":"x","done":false}
{"id":1,"seq":1,"type":"result","code":"shutting_down","done":true}"""
    code = f"import sys\n{READY}sys.stdin.readline()\nprint({chunks!r}, flush=True)\nsys.stdin.readline()"

    async def main() -> None:
        async with Client(argv=[sys.executable, "-c", code]) as client:
            assert [chunk.type async for chunk in client.stream("x")] == ["x", "result"]
            assert client.usable

    run(main())


def test_blocking_clients_keep_out_of_the_threads_own_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with SyncClient(*KIT, cwd=ROOT) as client:
            assert client.call("ping").type == "pong"
            assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_a_blocking_client_closed_under_its_users() -> None:
    client = SyncClient(*KIT, cwd=ROOT)
    client.start()
    outcomes: list[str] = []
    started = threading.Barrier(5)

    def use() -> None:
        started.wait()
        try:
            while True:
                client.call("ping")
        except (ClientClosed, RuntimeError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    closers = [threading.Thread(target=client.close) for _ in range(2)]
    for thread in closers:
        thread.start()
    for thread in [*threads, *closers]:
        thread.join(20)
        assert not thread.is_alive()
    assert len(outcomes) == 4


def test_a_blocking_client_does_not_wait_for_itself() -> None:
    async def calls_back() -> None:
        client.call("ping")

    with SyncClient(*KIT, cwd=ROOT) as client:
        result = client.call("kit.tool", {"name": "t"}, tools={"t": calls_back})
        assert "can not be used by its own async tools" in result["error"]
