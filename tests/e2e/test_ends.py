"""How a worker ends, for every kind of end that PROTOCOL.md knows."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.worker import ROOT, Worker, alive, environment, run, types, wait_gone

#: "Within a second", and what a busy machine takes to tell.
SECOND = 1.5


def request_line(command: str, args: Any = None, request_id: str = "r") -> str:
    return json.dumps({"id": request_id, "command": command, "args": args or {}}) + "\n"


# ---- stdin EOF ---------------------------------------------------------------------------------------


def test_eof_drains_and_exits_0() -> None:
    done = run(
        (request_line("kit.count", {"n": 50, "pause_ms": 1}) + request_line("kit.echo", {}, "e")).encode()
    )
    chunks = done.chunks()
    assert sum(c["id"] == "r" for c in chunks) == 51
    assert chunks[-1] == {"id": None, "type": "bye", "reason": "eof"}
    assert done.code == 0


def test_eof_drains_what_waits_in_the_queue() -> None:
    lines = "".join(request_line("kit.count", {"n": 3}, f"q{i}") for i in range(50))
    done = run(lines.encode(), "--max-inflight", "1")
    assert sum("done" in c for c in done.chunks()) == 50


def test_an_empty_input_is_ready_bye_and_exit_0() -> None:
    done = run(b"", commands=False)
    assert (types(done.chunks()), done.code, done.log) == (["ready", "bye"], 0, "")


# ---- shutdown ----------------------------------------------------------------------------------------


def test_shutdown_drains_and_new_requests_ping_included_get_shutting_down(framing: str, spawn: Spawn) -> None:
    worker = spawn(framing=framing)
    worker.request("kit.hold", id="h", credit=1)
    worker.type("started", "h")
    assert worker.call("shutdown")["type"] == "ok"
    for command in ("ping", "kit.echo", "stats"):
        last = worker.call(command)
        assert (last["code"], last["retryable"]) == ("shutting_down", True)
    worker.send(id="c", command="credit", args={"target": "h", "n": 1})
    assert worker.collect("c")[-1]["type"] == "ok", "controls still work"
    worker.control("cancel", target="h")
    assert worker.collect("h")[-1]["reason"] == "client"
    assert worker.rest()[-1] == {"id": None, "type": "bye", "reason": "shutdown"}
    assert worker.wait() == 0


def test_shutdown_finishes_what_is_admitted(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1")
    worker.request("kit.count", {"n": 5, "pause_ms": 10}, id="a")
    worker.request("kit.sync_count", {"n": 5}, id="b")
    worker.control("shutdown")
    chunks = worker.rest()
    assert [(c["id"], c["type"]) for c in chunks if "done" in c] == [("a", "complete"), ("b", "complete")]
    assert worker.wait() == 0


@pytest.mark.parametrize("command", ["kit.hold", "kit.sync_hold", "kit.stubborn"])
def test_past_the_grace_the_rest_is_aborted(command: str, worker: Worker) -> None:
    worker.request(command, id="h", credit=2)
    worker.type("started", "h")
    worker.control("shutdown", grace_ms=50)
    chunks = worker.rest(5)
    assert [(c["type"], c["reason"]) for c in chunks if "done" in c] == [("cancelled", "shutdown")]
    assert chunks[-1]["reason"] == "shutdown"
    assert worker.wait(3) == 0


def test_abort_cancels_all_at_once(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "2")
    ids = [worker.request("kit.hold") for _ in range(6)]
    worker.type("started")
    begin = time.monotonic()
    worker.send(id="d", command="shutdown", args={"mode": "abort"})
    chunks = worker.rest()
    assert worker.wait(3) == 0
    assert time.monotonic() - begin < SECOND
    assert {c["id"] for c in chunks if c["type"] == "cancelled"} == set(ids)


def test_a_host_that_does_not_read_holds_no_abort_up(worker: Worker) -> None:
    worker.request("kit.flood", {"size": 10_000})
    worker.type("chunk")
    worker.control("shutdown", mode="abort")
    assert worker.wait(3) == 0


# ---- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_the_second_aborts(number: int, worker: Worker) -> None:
    worker.request("kit.hold", id="h")
    worker.type("started", "h")
    worker.process.send_signal(number)
    while worker.call("ping")["type"] == "pong":
        pass
    assert worker.process.poll() is None
    worker.process.send_signal(number)
    chunks = worker.rest()
    assert [c["reason"] for c in chunks if c["type"] == "cancelled"] == ["shutdown"]
    assert chunks[-1]["reason"] == "signal"
    assert worker.wait(2) == 0


def test_a_signal_lets_what_is_admitted_finish(worker: Worker) -> None:
    worker.request("kit.count", {"n": 10, "pause_ms": 10}, id="a")
    worker.type("chunk", "a")
    worker.terminate()
    chunks = worker.rest()
    assert [c["type"] for c in chunks if "done" in c] == ["complete"]
    assert worker.wait() == 0


def test_the_first_signal_during_an_eof_drain_changes_nothing(worker: Worker) -> None:
    worker.request("kit.count", {"n": 30, "pause_ms": 10}, id="a", credit=1)
    worker.type("chunk", "a")
    worker.close_stdin()
    worker.type("chunk", "a")  # a second one comes without a grant once the end of stdin was seen
    worker.terminate()
    chunks = worker.rest()
    assert chunks[-1]["reason"] == "eof"
    assert [c["type"] for c in chunks if "done" in c] == ["complete"]


@pytest.mark.parametrize("command", ["kit.block_loop", "kit.block", "kit.sync_hold"])
def test_a_second_signal_ends_a_worker_that_is_stuck(command: str, worker: Worker) -> None:
    worker.request(command, {"seconds": 60}, id="b")
    worker.type("started", "b")
    busy(worker)
    worker.terminate()
    with pytest.raises(subprocess.TimeoutExpired):  # the signals must not melt into one
        worker.wait(0.3)
    begin = time.monotonic()
    worker.terminate()
    assert worker.wait(5) == 0
    assert time.monotonic() - begin < SECOND


def busy(worker: Worker) -> None:
    """Give a handler the moment it takes from ``started`` to its blocking call."""
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.15)


# ---- the host's death --------------------------------------------------------------------------------


def killed_host(how: str, requests: str, *flags: str) -> float:
    """Seconds a worker outlives its host's SIGKILL."""
    host = subprocess.Popen(
        [sys.executable, "-m", "tests.support.host", how, requests, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment(),
    )
    assert host.stdout is not None
    readable, _, _ = select.select([host.stdout], [], [], 15)
    assert readable, "the host has not come up"
    pid = int(host.stdout.readline())
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            host.wait(0.15)  # the handler comes to its blocking call
        assert alive(pid)
        begin = time.monotonic()
        host.kill()
        wait_gone(pid, 10)
        return time.monotonic() - begin
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "requests", "flags"),
    [
        ("idle", "", ()),
        ("async handler waits", request_line("kit.hold"), ()),
        ("stuck thread", request_line("kit.sync_hold"), ()),
        ("blocking call in a thread", request_line("kit.block", {"seconds": 60}), ()),
        ("async handler blocks the loop", request_line("kit.block_loop", {"seconds": 60}), ()),
        ("handler that swallows cancel", request_line("kit.stubborn"), ()),
        ("C call holding the GIL", request_line("kit.hold_gil", {"seconds": 60}), ("--die-with-parent",)),
        ("idle with --die-with-parent", "", ("--die-with-parent",)),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and "{" not in value else "",
)
def test_the_worker_is_gone_within_a_second_of_its_hosts_death(
    name: str, requests: str, flags: tuple[str, ...]
) -> None:
    assert killed_host("reads", requests, *flags) < SECOND


@pytest.mark.parametrize("command", ["kit.flood", "kit.sync_flood"])
def test_the_worker_is_gone_within_a_second_while_stdout_is_full(command: str) -> None:
    assert killed_host("full", request_line(command, {"size": 1000})) < SECOND


@pytest.mark.parametrize("command", [None, "kit.hold", "kit.sync_hold", "kit.block_loop"])
def test_a_closed_port_is_eof_and_broken_stdout_together_and_ends_it(
    command: str | None, worker: Worker
) -> None:
    if command:
        worker.request(command, {"seconds": 60}, id="b")
        worker.type("started", "b")
        busy(worker)
    worker.stdin.close()
    worker.stdout.close()
    begin = time.monotonic()
    code = worker.wait(5)
    assert time.monotonic() - begin < SECOND
    assert code == 3 or (command is None and code == 0)


def test_a_host_that_only_closes_stdout_is_gone(worker: Worker) -> None:
    worker.request("kit.hold", id="h")
    worker.type("started", "h")
    worker.stdout.close()
    assert worker.wait(2) == 3


def test_a_host_gone_leaves_no_thread_time_to_hold_the_exit(worker: Worker) -> None:
    for _ in range(20):
        worker.request("kit.sync_hold")
    worker.type("started")
    worker.stdin.close()
    worker.stdout.close()
    assert worker.wait(2) == 3


# ---- recycling ---------------------------------------------------------------------------------------


def test_max_requests_recycles(spawn: Spawn) -> None:
    worker = spawn("--max-requests", "3")
    for _ in range(3):
        assert worker.call("kit.echo")["type"] == "result"
    assert worker.rest()[-1] == {"id": None, "type": "bye", "reason": "recycle"}
    assert worker.wait() == 0


def test_max_age_recycles_and_drains(spawn: Spawn) -> None:
    worker = spawn("--max-age-s", "0.3")
    worker.request("kit.count", {"n": 20, "pause_ms": 30}, id="a")
    chunks = worker.rest()
    assert [c["type"] for c in chunks if "done" in c] == ["complete"]
    assert chunks[-1]["reason"] == "recycle"
    assert worker.wait() == 0


def test_max_rss_recycles(spawn: Spawn) -> None:
    worker = spawn("--max-rss-mb", "150")
    assert worker.call("kit.echo")["type"] == "result"
    worker.call("kit.grow", {"mb": 200})
    assert worker.rest(10)[-1]["reason"] == "recycle"
    assert worker.wait() == 0


def test_while_recycling_new_requests_get_shutting_down(spawn: Spawn) -> None:
    worker = spawn("--max-requests", "2")
    worker.request("kit.hold", id="h")
    worker.call("kit.echo")
    assert worker.call("kit.echo")["code"] == "shutting_down"
    worker.control("cancel", target="h")
    assert worker.rest()[-1]["reason"] == "recycle"


# ---- exit code 2 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--no-such-flag",), "--no-such-flag"),
        (("--max-inflight", "0"), "--max-inflight"),
        (("--framing", "xml"), "--framing"),
        (("--commands", "no.such.module"), "no.such.module"),
        (("--commands", "tests.support.broken_commands"), "tests.support.broken_commands"),
        (("--commands", "tests.support.doubled_commands"), "registered twice"),
        (("--script", "/nonexistent/script.jsonl"), "script.jsonl"),
        (("--log-file", "/nonexistent/dir/log"), "log"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_start_says_why_on_stderr_and_exits_2(flags: tuple[str, ...], said: str) -> None:
    done = run(b"", *flags)
    assert (done.code, done.stdout) == (2, b"")
    assert said in done.log
    assert "Traceback" not in done.log


def test_a_name_registered_twice_names_both_places() -> None:
    log = run(b"", "--commands", "tests.support.doubled_commands").log
    assert "tests.support.commands.echo" in log
    assert "tests.support.doubled_commands.echo" in log


def test_nothing_is_left_of_a_worker_that_has_ended(worker: Worker) -> None:
    worker.request("kit.sync_hold")
    worker.type("started")
    worker.control("shutdown", mode="abort")
    assert worker.wait(3) == 0
    readable, _, _ = select.select([worker.stderr], [], [], 5)
    assert readable, "stderr has ended as well"
