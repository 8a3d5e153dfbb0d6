"""Pools: routing, restarts, recycling, configuration, ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.client import ClientClosed, Pool, StartFailed, Stream
from tests.client.running import KIT, ROOT, SCRIPTED, alive, fails, run, until


def pool(*flags: str, workers: int = 2) -> Pool:
    return Pool(*KIT, *flags, workers=workers, cwd=ROOT)


async def consume(stream: Stream) -> list[str]:
    return [chunk.type async for chunk in stream]


def test_requests_go_to_the_least_busy() -> None:
    async def main() -> None:
        async with pool(workers=3) as workers:
            await workers.wait_ready()
            assert len(set(workers.pids)) == 3
            held = [asyncio.create_task(consume(workers.stream("kit.hold", {"gate": "g"}))) for _ in range(7)]
            await until(lambda: workers.in_flight == 7)
            assert sorted(workers.loads.values()) == [2, 2, 3]
            assert len({(await workers.call("kit.process"))["pid"] for _ in range(9)}) == 2  # those with two
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            assert workers.in_flight == 0
            pids = [(await workers.call("kit.process"))["pid"] for _ in range(6)]
            assert pids[:3] == pids[3:]
            assert len(set(pids)) == 3

    run(main())


def test_a_dead_worker_is_replaced_at_once_and_harms_no_other() -> None:
    async def main() -> None:
        async with pool() as workers:
            await workers.wait_ready()
            slow = {"n": 50, "pause_ms": 10}
            first, second = (workers.stream("kit.count", slow) for _ in range(2))
            await anext(first)
            await anext(second)
            victim, other = workers.pids
            os.kill(victim, signal.SIGKILL)
            await fails(consume(first), "worker_died")
            await workers.wait_ready()
            assert other in workers.pids
            assert victim not in workers.pids
            assert len(await consume(second)) == 50

    run(main())


def test_requests_wait_for_a_worker() -> None:
    async def main() -> None:
        async with pool(workers=1) as workers:
            os.kill(workers.pids[0], signal.SIGKILL)
            await until(lambda: not workers.pids)
            assert (await workers.call("ping")).type == "pong"

    run(main())


def test_retries_send_again_what_nobody_has_seen() -> None:
    async def main() -> None:
        async with pool(workers=1) as workers:
            old = workers.pids[0]
            os.kill(old, signal.SIGSTOP)
            call = asyncio.create_task(workers.call("kit.process", retries=1))
            await until(lambda: workers.in_flight == 1)
            os.kill(old, signal.SIGKILL)
            assert (await call)["pid"] != old
            stream = workers.stream("kit.hold", {"gate": "g"}, retries=5)
            assert (await anext(stream)).type == "started"
            os.kill(workers.pids[0], signal.SIGKILL)
            await fails(consume(stream), "worker_died")

    run(main())


def test_a_recycled_worker_loses_nothing_and_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(_pool: Pool, seconds: float) -> None:
        raise AssertionError(f"a pause of {seconds} s")

    async def main() -> None:
        async with pool("--max-requests", "5") as workers:
            calls = [workers.call("kit.echo", {"n": n}) for n in range(100)]
            answers = await asyncio.gather(*calls)
            assert [answer["echo"]["n"] for answer in answers] == list(range(100))

    monkeypatch.setattr(Pool, "_pause", pause)
    run(main())


def test_all_workers_know_what_was_configured() -> None:
    async def main() -> None:
        async with Pool("--model", "scripted", workers=2) as workers:
            script = [{"outputs": {"answer": "configured"}}]
            result = await workers.call(
                "configure", {"name": "x", "lm": {"model": "scripted", "script": script}}
            )
            assert result["scripted"] is True
            await workers.configure(name="x", adapter="json")
            await workers.wait_ready()
            for _ in range(2):
                answers = [
                    await workers.call("stream_predict", {"question": "?", "lm": "x"}) for _ in range(4)
                ]
                assert {answer.output["answer"] for answer in answers} == {"configured"}
                old = workers.pids
                for pid in old:
                    os.kill(pid, signal.SIGKILL)
                await until(lambda: set(old).isdisjoint(workers.pids))  # noqa: B023 - awaited here
                await workers.wait_ready()
            error = await fails(
                workers.configure(name="x", lm={"model": "no-such-provider/m", "nope": 1}), "invalid_args"
            )
            assert "nope" in error.message
            assert (await workers.call("stream_predict", {"question": "?", "lm": "x"})).output[
                "answer"
            ] == "configured"

    run(main())


def test_a_pool_that_can_not_start_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(StartFailed, match="exit code 1"):
            async with Pool(argv=["/bin/false"], workers=3):
                pass

    with caplog.at_level(logging.ERROR):
        run(main())


def counting(tmp_path: Path, code: str) -> list[str]:
    """A worker that runs ``code`` with ``n``, how often it was started before."""
    log = tmp_path / "starts"
    log.touch()
    return [
        sys.executable,
        "-c",
        f"""import sys, time, os
log = open({str(log)!r}, 'a+'); log.seek(0); n = len(log.read().split())
print(time.monotonic(), file=log, flush=True)
{code}""",
    ]


READY = 'print(\'{"id":null,"type":"ready","pid":1}\', flush=True)\n'


def test_a_worker_that_keeps_dying_is_started_ever_more_slowly(tmp_path: Path) -> None:
    argv = counting(tmp_path, f"{READY}os._exit(1) if n < 4 else sys.stdin.readline()")

    async def main() -> None:
        async with Pool(argv=argv, workers=1):
            while len((tmp_path / "starts").read_text().split()) < 5:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.01)

    run(main())
    starts = [float(word) for word in (tmp_path / "starts").read_text().split()]
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert pauses[1] > 0.1
    assert pauses[2] > 0.2
    assert pauses[3] > 0.4


def test_requests_do_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.client.pool.WAIT_S", 0.3)
    argv = counting(tmp_path, f"if n == 0:\n    {READY}    sys.stdin.readline()\nos._exit(4)")

    async def main() -> None:
        async with Pool(argv=argv, workers=1) as workers:
            await fails(workers.call("x"), "worker_died")
            error = await fails(workers.call("x"), "start_failed")
            assert error.retryable
            assert "exit code 4 before it was ready" in error.message
            await fails(workers.call("x", timeout=0.05), "start_failed")

    run(main())


def test_closing_with_and_without_grace() -> None:
    async def main() -> None:
        workers = pool()
        await workers.start()
        with pytest.raises(RuntimeError):
            await workers.start()
        await workers.wait_ready()
        slow = [
            asyncio.create_task(consume(workers.stream("kit.count", {"n": 20, "pause_ms": 10})))
            for _ in range(4)
        ]
        await until(lambda: workers.in_flight == 4)
        pids = workers.pids
        begin = time.monotonic()
        await workers.close(grace=10)
        assert time.monotonic() - begin < 8
        assert [len(await task) for task in slow] == [21] * 4
        assert not any(map(alive, pids))
        with pytest.raises(ClientClosed):
            await workers.call("ping")

    run(main())


def test_wrong_pools() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pool(workers=0)
    run(fails(Pool().call("ping"), "closed"))


def test_a_long_life_leaves_nothing_behind() -> None:
    async def main() -> int:
        async with Pool(*KIT, *SCRIPTED, workers=2, cwd=ROOT) as workers:
            for _ in range(3):
                os.kill(workers.pids[0], signal.SIGKILL)
                await workers.call("ping", retries=3)
        return len(os.listdir("/proc/self/fd"))

    before = run(main())
    assert run(main()) <= before


def test_what_a_pool_takes_is_what_a_client_takes() -> None:
    options: dict[str, Any] = {"env": {"A": "b"}, "cwd": ROOT, "stderr": None, "ready_timeout": 5.0}

    async def main() -> None:
        async with Pool(*KIT, workers=1, **options) as workers:
            assert (await workers.call("ping")).type == "pong"

    run(main())
