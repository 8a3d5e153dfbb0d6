"""``--workers N``: to its host a family is one worker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bridge.cli.cores import usable_cores
from tests.conformance.kit import load_cases, run_case
from tests.family.conftest import WITHOUT_DSPY, Family
from tests.support.processes import everybody, forked, template_of, wait_all_gone, workers_of
from tests.support.worker import PATIENCE, ROOT, command_line, environment, run, types

# A gate is one process's: what waits there and what opens it may be in two workers of a family.
CASES = [case for case in load_cases() if "kit.release" not in case.get("needs", ())]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_family_conforms(case: dict[str, object], framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", WITHOUT_DSPY)
    assert run_case(case, command_line("--framing", framing, "--workers", "2"), framing) is None


def test_the_host_sees_one_worker(family: Family) -> None:
    worker = family("--max-inflight", "10")
    assert worker.ready["pid"] == worker.pid
    assert worker.ready["limits"]["max_inflight"] == 10
    assert worker.call("describe")["limits"] == worker.ready["limits"]
    assert {"ping", "stats", "configure", "fam.get"} <= {*worker.ready["commands"]}
    _, code = worker.end()
    assert (types(worker.received), code) == (["ready", "result", "bye"], 0)


def test_requests_go_to_the_least_busy_worker(family: Family) -> None:
    worker = family("--workers", "3")
    ids = [worker.request("kit.where", {"pause_ms": 200}) for _ in range(9)]
    served = [worker.collect(request)[-1]["pid"] for request in ids]
    assert {*served} == {*workers_of(worker, 3)}
    assert [served.count(pid) for pid in {*served}] == [3, 3, 3]


def test_what_waits_runs_in_the_worker_that_is_free(family: Family) -> None:
    worker = family("--max-inflight", "2")
    worker.request("kit.hold", {"gate": "never"}, id="held")
    worker.type("started", "held")
    ids = [worker.request("kit.where") for _ in range(20)]
    pids = {worker.collect(request)[-1]["pid"] for request in ids}
    rows = worker.call("stats")["workers"]
    assert pids == {row["pid"] for row in rows if row["state"] == "serving" and not row["in_flight"]}


def test_streams_of_all_workers_interleave_whole(family: Family, framing: str) -> None:
    worker = family(framing=framing)
    ids = [worker.request("kit.count", {"n": 2000, "size": 10 + 300 * (i % 3)}) for i in range(8)]
    for request in ids:  # every chunk's id, seq and done are checked as it arrives
        chunks = worker.collect(request)
        assert [chunk["n"] for chunk in chunks[:-1]] == [*range(2000)]


def test_a_packet_with_line_breaks_is_one_request(family: Family) -> None:
    worker = family(framing="packet4")
    worker.line('{\n"id": "a",\r\n"command": "kit.echo",\n"args": {"text": "x\\ny"}\n}\n')
    assert worker.collect("a")[-1]["echo"] == {"text": "x\ny"}


def test_ping_is_answered_whatever_the_workers_do(family: Family) -> None:
    worker = family()
    ids = [worker.request("fam.burn", {"seconds": 1.0}) for _ in range(2)]
    assert worker.call("ping", {"data": 1})["data"] == 1
    assert {worker.collect(request)[-1]["type"] for request in ids} == {"result"}


def test_stats_are_summed_with_a_row_for_each_worker(family: Family) -> None:
    worker = family()
    workers_of(worker)
    ids = [worker.request("kit.count", {"n": 5}) for _ in range(6)]
    for request in ids:
        worker.collect(request)
    worker.call("kit.fail")
    told = worker.call("stats")
    counted = told["commands"]["kit.count"]
    assert (counted["succeeded"], counted["chunks"]) == (6, 36)
    assert told["errors"] == {"internal": 1}
    rows = told["workers"]
    assert {row["pid"] for row in rows if row["state"] == "serving"} == {*workers_of(worker)}
    assert sum(row["taken"] for row in rows) == 7
    assert sum(row["chunks"] for row in rows) >= 37
    told_of = sorted((row["state"], row["in_flight"], row["answers"]) for row in rows)
    assert told_of == [("serving", 0, True), ("serving", 0, True), ("spare", 0, True)]
    assert told["rss_mb"] > max(row["rss_mb"] for row in rows)
    assert told["family"] == {
        "workers": 2,
        "serving": 2,
        "died": 0,
        "hung": 0,
        "recycled": 0,
        "template_restarts": 0,
    }


def test_a_worker_that_is_busy_has_a_row_too(family: Family) -> None:
    worker = family()
    workers_of(worker)
    worker.request("fam.burn", {"seconds": 2.5}, id="b")
    rows = worker.call("stats")["workers"]
    assert sorted((row["in_flight"], row["answers"]) for row in rows) == [(0, True), (0, True), (1, False)]


@pytest.mark.parametrize("how", ["eof", "term", "shutdown"])
def test_a_drain_finishes_what_runs_and_what_waits(family: Family, how: str) -> None:
    worker = family("--max-inflight", "2")
    pids = everybody(worker)
    ids = [worker.request("kit.count", {"n": 3, "pause_ms": 20}) for _ in range(12)]
    worker.sync()
    if how == "eof":
        worker.close_stdin()
    elif how == "term":
        worker.terminate()
    else:
        worker.control("shutdown")
    chunks = worker.rest()
    assert worker.wait() == 0
    assert types(chunks).count("complete") == len(ids)
    assert chunks[-1]["type"] == "bye"
    wait_all_gone(pids, 1)


def test_an_abort_cancels_what_runs_and_what_waits(family: Family) -> None:
    worker = family("--max-inflight", "3")
    pids = everybody(worker)
    ids = [worker.request("kit.hold" if i % 2 else "kit.sync_hold") for i in range(8)]
    worker.type("started")
    worker.control("shutdown", mode="abort")
    chunks = worker.rest(2)
    assert {c["id"] for c in chunks if c["type"] == "cancelled" and c["reason"] == "shutdown"} == {*ids}
    assert worker.wait(2) == 0
    wait_all_gone(pids, 1.5)


@pytest.mark.parametrize("how", ["eof", "term", "abort"])
def test_nothing_is_left_to_reap(family: Family, how: str) -> None:
    """Where the first process of a container reaps nobody, what is left would stay for ever."""
    prctl, subreaper = ctypes.CDLL(None).prctl, 36  # linux/prctl.h
    prctl(subreaper, 1, 0, 0, 0)
    try:
        worker = family()
        pids = everybody(worker)
        if how == "eof":
            worker.close_stdin()
        elif how == "term":
            worker.terminate()
        else:
            worker.control("shutdown", mode="abort")
        worker.rest()
        assert worker.wait() == 0
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            assert not {*pids} & {*map(int, file.read().split())}
    finally:
        prctl(subreaper, 0, 0, 0, 0)


def test_a_second_signal_aborts(family: Family) -> None:
    worker = family()
    worker.request("kit.hold", id="h")
    worker.type("started", "h")
    worker.terminate()
    while "code" not in worker.call("ping"):  # the signal takes its way through a thread
        pass
    worker.terminate()
    assert worker.collect("h")[-1]["type"] == "cancelled"
    assert worker.wait(3) == 0


def test_ctrl_c_reaches_the_whole_group_and_drains(family: Family) -> None:
    worker = family()
    pids = everybody(worker)
    worker.request("kit.hold", id="h")
    worker.type("started", "h")
    for pid in pids:  # as a terminal does
        os.kill(pid, signal.SIGINT)
    while "code" not in (answer := worker.call("ping")):
        pass
    assert answer["code"] == "shutting_down"
    assert worker.call("stats")["code"] == "shutting_down"
    worker.control("shutdown", mode="abort")
    assert worker.collect("h")[-1]["type"] == "cancelled"
    assert worker.wait(3) == 0


@pytest.mark.parametrize("command", ["kit.flood", "kit.hold", "kit.hold_gil"])
def test_nothing_outlives_a_supervisor_that_is_killed(family: Family, command: str) -> None:
    worker = family()
    pids = everybody(worker)
    for _ in range(2):
        worker.request(command, {"seconds": 20} if command == "kit.hold_gil" else None)
        worker.next()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_all_gone(pids, 2.0)


@pytest.mark.parametrize("end", ["kill", "host gone", "two signals"])
def test_nothing_of_an_earlier_template_outlives_the_family(family: Family, end: str) -> None:
    """Workers whose template has died are the next one's to end, stuck as they are."""
    worker = family()
    first, second = workers_of(worker)
    (spare,) = {*forked(worker)} - {first, second}
    os.kill(template_of(worker), signal.SIGKILL)
    while worker.call("stats")["family"]["template_restarts"] != 1:
        pass
    os.kill(first, signal.SIGKILL)
    while "spare" not in [row["state"] for row in worker.call("stats")["workers"]]:
        pass  # until the new template has forked
    for _ in range(2):
        worker.type("started", worker.request("kit.hold_gil", {"seconds": 20}))
    if end == "kill":
        os.kill(worker.pid, signal.SIGKILL)
    elif end == "host gone":
        worker.stdin.close()
        worker.stdout.close()
    else:
        worker.terminate()
        while "code" not in worker.call("ping"):
            pass
        worker.terminate()
    worker.wait()
    wait_all_gone([second, spare], 2.0)


def test_nothing_outlives_a_host_that_is_gone(family: Family) -> None:
    worker = family()
    pids = everybody(worker)
    worker.request("kit.flood")
    worker.request("kit.hold")
    worker.type("started")
    worker.stdin.close()
    worker.stdout.close()
    assert worker.wait(2) == 3
    wait_all_gone(pids, 1.5)


def test_a_supervisor_that_is_killed_while_dspy_is_imported_leaves_nothing(family: Family) -> None:
    worker = family(dspy=True)
    template = template_of(worker)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_all_gone([template], 1.5)


def test_a_pipe_from_a_shell_is_served_to_its_end() -> None:
    lines = b"".join(b'{"id":%d,"command":"kit.count","args":{"n":50}}\n' % i for i in range(40))
    done = run(lines, "--workers", "2", env={"PYTHONPATH": WITHOUT_DSPY})
    chunks = done.chunks()
    assert sum("done" in chunk for chunk in chunks) == 40
    assert (types(chunks)[-1], done.code) == ("bye", 0)


def test_one_worker_is_one_process(family: Family) -> None:
    worker = family("--workers", "1")
    assert worker.call("kit.where")["pid"] == worker.pid


def test_auto_is_a_worker_for_each_core(family: Family) -> None:
    worker = family("--workers", "auto")
    cores = usable_cores()
    if cores == 1:
        assert worker.call("kit.where")["pid"] == worker.pid
    else:
        assert len(workers_of(worker, cores)) == cores


@pytest.mark.parametrize("value", ["0", "-1", "many", "257", ""])
def test_a_wrong_number_of_workers_is_told(value: str) -> None:
    done = run(b"", "--workers", value)
    assert done.code == 2
    assert "--workers" in done.log
    assert not done.stdout


def test_a_module_that_can_not_be_loaded_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("raise ValueError('no such thing')\n")
    done = run(
        b"",
        "--workers",
        "2",
        "--commands",
        "broken_module",
        env={"PYTHONPATH": f"{WITHOUT_DSPY}{os.pathsep}{tmp_path}"},
    )
    assert done.code == 2
    assert done.log.count("broken_module") == 1
    assert not done.stdout


@pytest.mark.parametrize("how", ["exec", "fork"])
def test_what_a_worker_started_does_not_hide_its_death(family: Family, how: str) -> None:
    worker = family()
    pid = worker.call("kit.spawn_child", {"how": how})["pid"]
    try:
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        assert how == "fork" or not [link for link in links if link.startswith("socket:")], links
        ids = [worker.request("kit.hold") for _ in range(2)]
        for victim in workers_of(worker):
            os.kill(victim, signal.SIGKILL)
        assert {worker.collect(request, 3)[-1]["code"] for request in ids} == {"worker_died"}
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_console_script_starts_a_family_too(tmp_path: Path) -> None:
    """The template is the command line again, whatever that is."""
    script = tmp_path / "start.py"
    script.write_text("import sys\nfrom bridge.__main__ import main\nsys.exit(main())\n")
    words = [*command_line()[:1], str(script), "serve", "--workers", "2"]
    env = environment(PYTHONPATH=WITHOUT_DSPY)
    line = b'{"id":1,"command":"describe","args":{"name":"ping"}}\n'
    done = subprocess.run(
        words, input=line, capture_output=True, cwd=ROOT, env=env, timeout=PATIENCE, check=False
    )
    assert b'"id":1,"seq":0,"type":"result"' in done.stdout, done.stderr
    assert done.returncode == 0


def test_a_family_that_has_nothing_to_do_ends_at_once() -> None:
    """Before DSPy is imported, too."""
    begin = time.monotonic()
    done = run(b'{"id":1,"command":"ping"}\n', "--workers", "2")
    assert (types(done.chunks()), done.code) == (["ready", "pong", "bye"], 0)
    alone = time.monotonic()
    run(b'{"id":1,"command":"ping"}\n')
    assert alone - begin < (time.monotonic() - alone) * 2 + 0.3
