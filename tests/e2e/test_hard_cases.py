"""What a worker must survive although it happens rarely: each was a way to hang or to grow."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.support.worker import PATIENCE, ROOT, Worker, command_line, environment

HARD = ("--commands", "tests.support.hard_commands")


def rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def until(condition: Callable[[], bool], worker: Worker) -> None:
    """Wait for something that only the system tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.05)
        assert worker.process.poll() is None


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(worker: Worker) -> Callable[[], bool]:
    """Whether the worker has used no processor time since it was last asked."""
    last = -1.0

    def same() -> bool:
        nonlocal last
        now, last_time = cpu_s(worker.pid), last
        last = now
        return now == last_time

    return same


def test_args_that_explode_end_their_request_and_free_its_slot(spawn: Spawn) -> None:
    worker = spawn(*HARD, "--max-inflight", "1")
    for number in range(3):
        worker.request("hard.exploding", {}, id=f"bad{number}")
    worker.request("kit.echo", {}, id="good")
    for number in range(3):
        assert worker.type("error", f"bad{number}")["code"] == "internal"
    worker.type("result", "good")
    assert worker.call("stats")["running"] == 1


def test_results_wait_for_a_host_that_does_not_read(spawn: Spawn) -> None:
    worker = spawn(*HARD, "--max-inflight", "16")
    worker.call("hard.big")
    before = rss_mb(worker.pid)
    for number in range(1000):
        worker.request("hard.big", {}, id=number)
    until(idle(worker), worker)
    assert rss_mb(worker.pid) - before < 20, "a thousand results of 100 KB"
    ids = {worker.next()["id"] for _ in range(1001)}
    assert ids == {"t1", *range(1000)}


def test_many_threads_before_a_stalled_host_share_their_room(spawn: Spawn) -> None:
    worker = spawn(*HARD)
    worker.call("ping")
    before = rss_mb(worker.pid)
    for number in range(200):
        worker.request("hard.flood", {"size": 10_000}, id=number)
    until(idle(worker), worker)
    assert rss_mb(worker.pid) - before < 40, "two hundred threads, each with a stack and a few chunks"


def test_a_chunk_that_takes_long_to_encode_holds_up_nobody(spawn: Spawn) -> None:
    worker = spawn(*HARD)
    worker.request("hard.slow_repr", {}, id="a")
    worker.type("chunk", "a")
    started = time.monotonic()
    worker.control("cancel", target="a")
    assert worker.type("cancelled", "a")["reason"] == "client"
    worker.call("ping")
    assert time.monotonic() - started < 1.5
    worker.call("hard.stop")


def test_handlers_clean_up_when_the_host_is_gone_beside_a_flood(spawn: Spawn, tmp_path: Path) -> None:
    worker = spawn(*HARD)
    mark = tmp_path / "cleaned"
    worker.request("hard.clean_up", {"path": str(mark)}, id="a")
    worker.type("chunk", "a")
    worker.request("hard.flood", {"size": 1000}, id="b")
    worker.type("chunk", "b")
    worker.stdout.close()
    worker.stdin.close()
    assert worker.process.wait(PATIENCE) == 3
    assert mark.exists()


def test_a_fifo_that_is_opened_again_is_read_on(tmp_path: Path) -> None:
    fifo = tmp_path / "in"
    os.mkfifo(fifo)
    # Opening for both keeps the first open from blocking; the worker inherits an end without a writer.
    both = os.open(fifo, os.O_RDWR)
    stdin = os.open(fifo, os.O_RDONLY)
    os.write(both, b'{"id":1,"command":"ping"}\n')
    os.close(both)
    process = subprocess.Popen(
        command_line(commands=False), stdin=stdin, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
    )
    os.close(stdin)
    again = os.open(fifo, os.O_WRONLY)
    os.write(again, b'{"id":2,"command":"ping"}\n')
    os.close(again)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out.count(b'"pong"') >= 1
    assert b'"bye"' in out
    assert process.returncode == 0


def test_bye_is_the_last_line_whatever_comes_after_a_shutdown(spawn: Spawn) -> None:
    worker = spawn()
    lines = b'{"command":"shutdown"}\n' + b'{"id":1,"command":"ping"}\n' * 20_000
    with contextlib.suppress(BrokenPipeError):
        worker.write(lines)
    chunks = worker.rest()
    assert chunks[-1] == {"id": None, "type": "bye", "reason": "shutdown"}


def test_a_later_signal_does_not_lengthen_a_grace(spawn: Spawn) -> None:
    worker = spawn()
    worker.request("kit.hold", {}, id="a")
    worker.type("started", "a")
    started = time.monotonic()
    worker.control("shutdown", grace_ms=500)
    worker.process.terminate()
    worker.rest()
    assert worker.wait() == 0
    assert time.monotonic() - started < 5


def test_requests_that_end_in_the_queue_leave_nothing_behind(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1")
    worker.request("kit.hold", {}, id="slot")
    worker.type("started", "slot")
    worker.request("kit.echo", {}, id="waits")
    worker.call("ping")
    before = rss_mb(worker.pid)
    for _ in range(200):
        for number in range(100):
            worker.request("kit.echo", {}, id=number)
            worker.control("cancel", target=number)
        for number in range(100):
            worker.type("cancelled", number)
        worker.received.clear()
    assert rss_mb(worker.pid) - before < 10


def test_what_a_line_keeps_in_memory_counts_towards_the_queue(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1", "--max-queued-bytes", "100000")
    worker.request("kit.hold", {}, id="slot")
    worker.type("started", "slot")
    worker.send(id="fat", command="kit.echo", ignored="x" * 200_000)
    assert worker.type("error", "fat")["code"] == "overloaded"


def test_an_escaped_half_of_a_surrogate_pair_is_replaced(worker: Worker) -> None:
    worker.line('{"id":"a","command":"kit.echo","args":{"text":"x\\ud83d"}}')
    assert worker.type("result", "a")["echo"] == {"text": "x\ufffd"}


def test_integers_of_any_size_come_back_exactly(worker: Worker) -> None:
    digits = "7" * 6000
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(10_000)  # for this side
    try:
        worker.line(f'{{"id":"a","command":"kit.echo","args":{{"n":{digits}}}}}')
        assert worker.type("result", "a")["echo"] == {"n": int(digits)}
    finally:
        sys.set_int_max_str_digits(before)


def test_the_id_is_read_beside_a_number_no_envelope_takes(worker: Worker) -> None:
    worker.line(f'{{"id":"a","command":"ping","credit":{"9" * 5000}}}')
    error = worker.type("error", "a")
    assert (error["code"], error["details"]["path"]) == ("invalid_request", "$.credit")


def test_the_id_of_a_line_of_two_thousand_levels_is_read(worker: Worker) -> None:
    worker.line(f'{{"id":"a","command":"ping","args":{{"data":{"[" * 2000 + "]" * 2000}}}}}')
    assert worker.type("error", "a")["code"] == "limit_exceeded"


def test_a_hostile_name_is_cut_in_the_error(worker: Worker) -> None:
    worker.send(id="a", command="cancel", args={"target": "x", "k" * 100_000: 1})
    error = worker.type("error", "a")
    assert error["code"] == "invalid_args"
    assert len(str(error)) < 2000


def test_secrets_of_the_environment_are_known_before_dspy_is(spawn: Spawn) -> None:
    key = "acme_0123456789abcdef"
    worker = spawn(*HARD, "--debug", "--log-level", "debug", env={"ACME_API_KEY": key})
    error = worker.call("hard.secret")
    assert "[redacted]" in error["error"]
    worker.end()
    assert key.encode() not in worker.raw
    assert key not in worker.final_log()


@pytest.mark.parametrize("source", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_commands_module_that_exits_is_a_start_up_error(source: str, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(source)
    words = command_line("--commands", "leaves", commands=False)
    env = environment(PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=False, timeout=30
    )
    assert done.returncode == 2
    assert b"leaves" in done.stderr


def test_a_cache_directory_that_can_not_be_written_is_a_start_up_error() -> None:
    words = command_line("--cache-dir", "/proc/cache", commands=False)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert b"cache directory" in done.stderr
