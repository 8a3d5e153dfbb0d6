"""The blocking clients."""

from __future__ import annotations

import gc
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.client import Client, RequestError, StartFailed, SyncClient, SyncPool, Token
from tests.client.running import KIT, ROOT, SCRIPTED, alive


def client() -> SyncClient:
    return SyncClient(*KIT, cwd=ROOT)


def test_streams_and_calls() -> None:
    with client() as worker:
        assert worker.ready["type"] == "ready"
        chunks = list(worker.stream("kit.count", {"n": 1000}, credit=16))
        assert [chunk.seq for chunk in chunks] == list(range(1001))
        assert worker.call("kit.echo", {"a": 1})["echo"] == {"a": 1}
        with pytest.raises(RequestError) as caught:
            worker.call("nope")
        assert caught.value.code == "unknown_command"
        pid = worker.ready["pid"]
    assert not alive(pid)


def test_leaving_cancels() -> None:
    with client() as worker:
        for chunk in worker.stream("kit.flood"):
            if chunk["n"] == 10:
                break
        gc.collect()
        with worker.stream("kit.flood") as stream:
            next(stream)
        assert list(stream) == []
        stats = worker.call("stats")
        assert stats["requests"]["cancelled"] == 2


def test_many_threads_share_one_worker() -> None:
    def count(n: int) -> list[int]:
        return [chunk["n"] for chunk in worker.stream("kit.count", {"n": n}) if not chunk.done]

    with client() as worker, ThreadPoolExecutor(16) as threads:
        sizes = list(range(100, 132))
        assert list(threads.map(count, sizes)) == [list(range(n)) for n in sizes]


def test_tools_run_in_threads() -> None:
    seen = []

    def population(country: str) -> int:
        """Inhabitants of a country."""
        seen.append(threading.current_thread() is not threading.main_thread())
        return 68_000_000

    with SyncClient(*SCRIPTED) as worker:
        question = {"question": "Do more people live in France or in Spain?"}
        assert worker.call("stream_react_steps", question, tools=[population]).answer == "In France."
        assert seen == [True, True]
        tokens = worker.stream("stream_predict", {"question": "Why is the sky blue?"})
        assert "".join(chunk.delta for chunk in tokens if isinstance(chunk, Token)).startswith("Because")


def test_a_pool_for_threads() -> None:
    with SyncPool(*KIT, workers=2, cwd=ROOT) as pool:
        os.kill(pool.pids[0], signal.SIGKILL)
        assert pool.call("ping", retries=2).type == "pong"
        assert pool.configure(lm={"model": "scripted"})["scripted"]


def test_clients_that_do_not_run() -> None:
    worker = client()
    with pytest.raises(RuntimeError, match="not started"):
        worker.call("ping")
    worker.close()
    worker.start()
    with pytest.raises(RuntimeError, match="started already"):
        worker.start()
    assert worker.usable
    stream = worker.stream("kit.flood")
    next(stream)
    worker.close()
    del stream
    with pytest.raises(RuntimeError, match="not started"):
        worker.call("ping")
    broken = SyncClient(argv=["/bin/false"])
    with pytest.raises(StartFailed):
        broken.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "dspy-bridge client"]


def test_the_options_are_the_clients() -> None:
    with pytest.raises(TypeError):
        SyncClient(nope=1)
    assert Client.stream.__doc__
