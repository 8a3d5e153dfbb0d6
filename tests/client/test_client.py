"""The asyncio client against a real worker."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import bridge
from bridge.client import (
    Chunk,
    Client,
    ClientClosed,
    ProtocolError,
    RequestError,
    Result,
    StartFailed,
    Stream,
    WorkerDied,
)
from tests.client.running import KIT, ROOT, alive, fails, run, until


@asynccontextmanager
async def worker(*flags: str) -> AsyncIterator[Client]:
    async with Client(*KIT, *flags, cwd=ROOT) as client:
        yield client


def python(code: str) -> list[str]:
    """The command line of a worker that is a few lines of Python."""
    return [sys.executable, "-c", f"import sys, time, os\n{code}"]


READY = 'print(\'{"id":null,"type":"ready","pid":1}\', flush=True)\n'


def test_it_is_a_public_name() -> None:
    assert bridge.Client is Client


def test_a_stream_has_every_chunk_in_order() -> None:
    async def main() -> list[Chunk]:
        async with worker() as client:
            return [chunk async for chunk in client.stream("kit.count", {"n": 1000}, credit=7)]

    chunks = run(main())
    assert [chunk.seq for chunk in chunks] == list(range(1001))
    assert [chunk["n"] for chunk in chunks[:-1]] == list(range(1000))
    assert chunks[-1].type == "complete"
    assert chunks[-1].done
    assert not chunks[0].done


def test_a_call_gives_the_one_result() -> None:
    async def main() -> Chunk:
        async with worker() as client:
            assert client.ready["protocol"] == 1
            assert client.ready["pid"] != os.getpid()
            return await client.call("kit.echo", {"big": 2**80, "text": "ü\u2028\x00😀", "none": None})

    result = run(main())
    assert isinstance(result, Result)
    assert result["echo"] == {"big": 2**80, "text": "ü\u2028\x00😀", "none": None}


def test_leaving_the_loop_cancels() -> None:
    async def main() -> None:
        async with worker() as client:
            async for chunk in client.stream("kit.flood", {}):
                if chunk["n"] == 100:
                    break
            assert client.in_flight == 0
            with pytest.raises(KeyError):
                await breaks_off(client.stream("kit.flood", {}))
            assert client.in_flight == 0
            stats = await client.call("stats")
            assert stats["requests"]["cancelled"] == 2

    run(main())


async def breaks_off(stream: Stream) -> None:
    async for _ in stream:
        raise KeyError


@pytest.mark.parametrize("how", ["aclose", "with", "cycle", "task"])
def test_other_ways_to_leave(how: str) -> None:
    async def main() -> None:
        async with worker() as client:
            stream = client.stream("kit.flood", {})
            await anext(stream)
            assert client.in_flight == 1
            if how == "aclose":
                await stream.aclose()
                assert [chunk async for chunk in stream] == []
            elif how == "with":
                async with stream:
                    await anext(stream)
            elif how == "cycle":
                keeper: list[Any] = [stream]
                keeper.append(keeper)
                del stream, keeper
                gc.collect()
            else:
                del stream
                task = asyncio.create_task(consume(client.stream("kit.hold", {"gate": "g"})))
                await until(lambda: client.in_flight > 0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert client.in_flight == 0
            assert (await client.call("ping")).type == "pong"

    run(main())


async def consume(stream: Stream) -> list[Chunk]:
    return [chunk async for chunk in stream]


def test_a_stream_collected_by_another_thread_cancels() -> None:
    async def main() -> None:
        async with worker() as client:
            streams = [client.stream("kit.flood", {})]
            await anext(streams[0])
            await asyncio.to_thread(streams.clear)
            await until(lambda: client.in_flight == 0)

    run(main())


def test_cancel_raises_after_what_had_come() -> None:
    async def main() -> None:
        async with worker() as client:
            stream = client.stream("kit.count", {"n": 1000}, credit=10)
            await anext(stream)
            stream.cancel()
            error = await fails(consume(stream), "cancelled")
            assert not error.retryable
            unsent = client.stream("kit.count", {"n": 1})
            unsent.cancel()
            await fails(consume(unsent), "cancelled")
            assert await consume(unsent) == []

    run(main())


def test_one_task_reads_a_stream() -> None:
    async def main() -> None:
        async with worker() as client:
            stream = client.stream("kit.hold", {"gate": "g"})
            await anext(stream)
            first = asyncio.create_task(consume(stream))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(stream)
            await client.call("kit.release", {"gate": "g"})
            assert [chunk.type for chunk in await first] == ["released", "complete"]

    run(main())


def test_a_wait_that_is_given_up_cancels() -> None:
    async def main() -> None:
        async with worker() as client:
            stream = client.stream("kit.hold", {"gate": "g"})
            assert (await anext(stream)).type == "started"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
            assert client.in_flight == 0
            await fails(consume(stream), "cancelled")

    run(main())


def test_errors_have_a_code_and_more() -> None:
    async def main() -> None:
        async with worker() as client:
            error = await fails(client.call("kit.cuont"), "unknown_command")
            assert "kit.count" in error.details["did_you_mean"]
            assert not error.retryable
            assert str(error).endswith("(unknown_command)")
            error = await fails(client.call("kit.args", {"items": 7}), "invalid_args")
            assert error.details["path"] == "$.args.items"
            stream = client.stream("kit.fail", {"how": "error", "after": 2})
            assert [await anext(stream), await anext(stream)]
            await fails(consume(stream), "internal")
            assert await consume(stream) == []  # it has ended

    run(main())


def test_time_is_up() -> None:
    async def main() -> None:
        async with worker() as client:
            error = await fails(client.call("kit.hold", {"gate": "g"}, timeout=0.1), "deadline_exceeded")
            assert error.retryable
            assert (await client.call("kit.echo", {}, timeout=20)).type == "result"

    run(main())


def test_a_worker_that_hangs_does_not_hang_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.link.OVERDUE_S", 0.1)

    async def main() -> None:
        async with worker() as client:
            os.kill(client.ready["pid"], signal.SIGSTOP)
            error = await fails(client.call("ping", timeout=0.1), "deadline_exceeded")
            assert error.message == "The worker did not answer in time."
            os.kill(client.ready["pid"], signal.SIGCONT)
            assert (await client.call("ping")).type == "pong"

    run(main())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"credit": 0}, "credit"), ({"timeout": 0}, "timeout"), ({"timeout": float("nan")}, "timeout")],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Client().stream("ping", **options)


@pytest.mark.parametrize("args", [{"x": object()}, {"x": "\ud800"}, {1j: 1}])
def test_args_that_are_no_json(args: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="the args of 'ping' can not be written as JSON"):
        Client().stream("ping", args)


@pytest.mark.parametrize(
    ("argv", "message", "details"),
    [
        (
            ["no-such-program"],
            "The worker 'no-such-program' can not be started: No such file or directory.",
            {},
        ),
        (["/"], "The worker '' can not be started: Permission denied.", {}),
        (["/bin/false"], "The worker ended with exit code 1 before it was ready.", {"exit_code": 1}),
        (["echo", "hello"], "The worker's first line is no 'ready': 'hello'.", {}),
        (["echo", '{"id":null,"type":"bye"}'], "The worker's first line is no 'ready'", {}),
        (["sleep", "60"], "The worker 'sleep' was not ready within 0.3 s.", {}),
        (
            python("os.kill(os.getpid(), 9)"),
            "was ended by SIGKILL before it was ready.",
            {"signal": "SIGKILL"},
        ),
        (python("os.close(1); time.sleep(60)"), "closed its output before it was ready.", {}),
    ],
)
def test_workers_that_do_not_start(argv: list[str], message: str, details: dict[str, Any]) -> None:
    async def main() -> StartFailed:
        with pytest.raises(StartFailed) as caught:
            async with Client(argv=argv, ready_timeout=0.3 if argv[0] == "sleep" else 30):
                pass
        return caught.value

    error = run(main())
    assert message in error.message
    assert error.details == details
    assert error.code == "start_failed"


@pytest.mark.parametrize(
    "line",
    ["oops", '["a list"]', '{"id":1,"seq":7,"type":"x"}', '{"id":1,"type":"x"}', '{"id":1,"seq":0}', "7"],
)
def test_what_is_no_chunk_ends_the_worker(line: str) -> None:
    code = f"{READY}sys.stdin.readline()\nprint({line!r}, flush=True)\ntime.sleep(60)"

    async def main() -> None:
        async with Client(argv=python(code)) as client:
            error = await fails(client.call("x"), "protocol_error")
            assert isinstance(error, ProtocolError)
            assert line[:40] in error.message
            assert not client.usable

    run(main())


def test_chunks_of_nobody_and_of_unknown_types() -> None:
    chunks = [
        '{"id":null,"type":"error","error":"a line"}',
        '{"id":null,"type":"news"}',
        '{"id":77,"seq":3,"type":"token"}',
        '{ "type": "odd", "new": {"x": 1}, "seq": 0, "id": 1 }',
        '{"done":true,"type":"end","seq":1,"id":1}',
    ]
    code = f"{READY}sys.stdin.readline()\nprint({chr(10).join(chunks)!r}, flush=True)\nsys.stdin.readline()"

    async def main() -> list[Chunk]:
        async with Client(argv=python(code)) as client:
            return await consume(client.stream("x"))

    odd, end = run(main())
    assert type(odd) is Chunk
    assert (odd.type, odd.new, end.type) == ("odd", {"x": 1}, "end")


def test_death_tells_every_caller_after_what_had_come() -> None:
    async def main() -> None:
        async with worker() as client:
            stream = client.stream("kit.hold", {"gate": "g"})
            calls = [asyncio.create_task(client.call("kit.hold", {"gate": "g"})) for _ in range(20)]
            started = await anext(stream)
            await until(lambda: client.in_flight == 21)
            os.kill(client.ready["pid"], signal.SIGKILL)
            for call in calls:
                with pytest.raises(WorkerDied) as caught:
                    await call
                assert caught.value.retryable
                assert caught.value.details == {"signal": "SIGKILL"}
            assert started.type == "started"
            await fails(consume(stream), "worker_died")
            await fails(client.call("ping"), "worker_died")

    run(main())


def test_output_in_the_pipe_is_read_before_death_is_told() -> None:
    chunks = "".join(f'{{"id":1,"seq":{n},"type":"x"}}\n' for n in range(30))
    code = f'{READY}sys.stdin.readline()\nsys.stdout.write({chunks!r} + \'{{"id":1,"s\')'

    async def main() -> None:
        async with Client(argv=python(code)) as client:
            stream = client.stream("x")
            assert [(await anext(stream)).seq for _ in range(30)] == list(range(30))
            error = await fails(consume(stream), "worker_died")
            assert error.details == {"exit_code": 0}

    run(main())


def test_a_grandchild_that_holds_the_pipe_hides_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.process.REST_S", 0.1)
    code = f"{READY}sys.stdin.readline()\nif os.fork() == 0:\n    time.sleep(20)\nos._exit(3)"

    async def main() -> None:
        async with Client(argv=python(code)) as client:
            begin = time.monotonic()
            error = await fails(client.call("x"), "worker_died")
            assert error.details == {"exit_code": 3}
            assert time.monotonic() - begin < 10

    run(main())


def test_a_worker_that_ignores_everything_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bridge.client.link.LEAVE_S", 0.2)
    pid_file = tmp_path / "pid"
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n{READY}time.sleep(60)"
    )

    async def main() -> None:
        async with Client(argv=python(code)):
            pass

    run(main())
    assert not alive(int(pid_file.read_text()))


def test_close_with_and_without_grace() -> None:
    async def main() -> None:
        client = Client(*KIT, cwd=ROOT)
        await client.start()
        with pytest.raises(RuntimeError, match="started already"):
            await client.start()
        held = asyncio.create_task(consume(client.stream("kit.hold", {"gate": "g"})))
        slow = asyncio.create_task(consume(client.stream("kit.count", {"n": 20, "pause_ms": 10})))
        await until(lambda: client.in_flight == 2)
        await client.close(grace=0.6)
        assert len(await slow) == 21
        with pytest.raises(ClientClosed):
            await held
        with pytest.raises(ClientClosed):
            await client.call("ping")
        assert not alive(client.ready["pid"])
        await client.close()

    run(main())


def test_a_client_that_was_not_started_says_so() -> None:
    error = run(fails(Client().call("ping"), "closed"))
    assert "async with" in error.message


def test_a_bye_refuses_new_requests() -> None:
    async def main() -> None:
        async with worker("--max-requests", "1") as client:
            await client.call("kit.echo")
            error = await fails(client.call("kit.echo"), "shutting_down")
            assert error.retryable

    run(main())


def test_a_worker_that_takes_no_input_for_a_while(tmp_path: Path) -> None:
    big = "x" * 4_000_000

    async def main() -> None:
        async with worker() as client:
            os.kill(client.ready["pid"], signal.SIGSTOP)
            call = asyncio.create_task(client.call("kit.echo", {"big": big}))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not call.done()
            os.kill(client.ready["pid"], signal.SIGCONT)
            assert (await call)["echo"]["big"] == big

    run(main())


def test_the_log_goes_where_it_is_told_to(tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "log").open("w") as log:
            async with Client(*KIT, cwd=ROOT, stderr=log) as client:
                await fails(client.call("kit.fail", {"how": "error"}), "internal")

    run(main())
    assert "a handler failed" in (tmp_path / "log").read_text()


def test_the_environment_is_added_to() -> None:
    code = (
        f"{READY}assert os.environ['EXTRA'] == 'ü' and os.environ['PATH']\nsys.stdin.readline()\nos._exit(7)"
    )

    async def main() -> None:
        async with Client(argv=python(code), env={"EXTRA": "ü"}) as client:
            error = await fails(client.call("x"), "worker_died")
            assert error.details == {"exit_code": 7}

    run(main())


def test_nothing_is_left_behind() -> None:
    async def main() -> tuple[int, int]:
        pids = []
        async with worker() as client:
            for _ in range(200):
                async for _ in client.stream("kit.flood", {}):
                    break
            pids.append(client.ready["pid"])
        return pids[0], len(os.listdir("/proc/self/fd"))

    pid, before = run(main())
    assert not alive(pid)
    _, after = run(main())
    assert after <= before


def test_request_error_is_the_base_of_all() -> None:
    for kind in (WorkerDied, StartFailed, ProtocolError, ClientClosed):
        error = kind("words")
        assert isinstance(error, RequestError)
        assert error.again().__dict__ == error.__dict__
        assert error.again() is not error
