"""Whatever stdin and stdout are, and whoever else would like to write to them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.conftest import Spawn
from tests.support.wirecheck import Checker, Chunk, Cutter
from tests.support.worker import PATIENCE, ROOT, Worker, command_line, environment, memory_mb, types

PINGS = b'{"id":1,"command":"ping"}\n{"id":2,"command":"kit.count","args":{"n":100}}\n'
End = int | IO[bytes] | None


@contextlib.contextmanager
def started(stdin: End, stdout: End, *flags: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A worker on the given descriptors."""
    process = subprocess.Popen(
        command_line(*flags),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def parse(data: bytes) -> list[Chunk]:
    checker, cutter = Checker(), Cutter("lines")
    return [checker.parse(text) for text in cutter.feed(data)]


def read_until(fd: int, end: bytes) -> bytes:
    """What comes from a descriptor up to ``end`` (or the end of all)."""
    data, deadline = b"", time.monotonic() + PATIENCE
    while end not in data:
        readable, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        if not readable:
            raise TimeoutError(data[-300:])
        try:
            more = os.read(fd, 65536)
        except OSError:
            break  # EIO: the terminal's other side is closed
        if not more:
            break
        data += more
    return data


def check_pings(chunks: list[Chunk]) -> None:
    assert chunks[0]["type"] == "ready"
    assert [c["type"] for c in chunks if c["id"] == 1] == ["pong"]
    assert sum(c["id"] == 2 for c in chunks) == 101
    assert chunks[-1]["type"] == "bye"


# ---- what stdin may be -------------------------------------------------------------------------------


def test_stdin_may_be_a_regular_file_and_stdout_too(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(PINGS)
    with source.open("rb") as stdin, target.open("wb") as stdout, started(stdin, stdout) as process:
        assert process.wait(PATIENCE) == 0
    check_pings(parse(target.read_bytes()))


def test_a_regular_file_is_appended_to_where_it_stands(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"before\n")
    with target.open("ab") as stdout, started(subprocess.DEVNULL, stdout) as process:
        assert process.wait(PATIENCE) == 0
    assert target.read_bytes().startswith(b'before\n{"id":null,"type":"ready"')


def test_stdin_may_be_dev_null() -> None:
    with started(subprocess.DEVNULL, subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=PATIENCE)
        assert types(parse(out)) == ["ready", "bye"]
        assert process.returncode == 0


def test_stdin_may_be_a_fifo_with_one_writer_after_the_other(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keeper = os.open(fifo, os.O_RDWR)
    stdin = os.open(fifo, os.O_RDONLY)
    try:
        with started(stdin, subprocess.PIPE) as process:
            assert process.stdout is not None
            fd = process.stdout.fileno()
            read_until(fd, b"ready")
            for number in (b"1", b"2"):
                fifo.write_bytes(b'{"id":%s,"command":"ping"}\n' % number)
                read_until(fd, b"pong")
            os.close(stdin)
            os.close(keeper)
            stdin = keeper = -1
            assert process.wait(PATIENCE) == 0
    finally:
        for number_fd in (stdin, keeper):
            if number_fd >= 0:
                os.close(number_fd)


def test_stdin_whose_writer_is_gone_before_the_start_is_read_to_its_end() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, PINGS)
    os.close(write_end)
    with started(read_end, subprocess.PIPE) as process:
        os.close(read_end)
        out, _ = process.communicate(timeout=PATIENCE)
    check_pings(parse(out))


def test_stdin_and_stdout_may_be_one_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, started(theirs, theirs) as process:  # type: ignore[arg-type]  # Popen takes what has a fileno
        theirs.close()
        ours.sendall(PINGS)
        ours.shutdown(socket.SHUT_WR)
        check_pings(parse(read_until(ours.fileno(), b'"bye"') + read_until(ours.fileno(), b"\n")))
        assert process.wait(PATIENCE) == 0


def test_a_socket_that_is_closed_is_a_host_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with started(theirs, theirs) as process:  # type: ignore[arg-type]  # as above
        theirs.close()
        read_until(ours.fileno(), b"ready")
        ours.sendall(b'{"id":1,"command":"kit.sync_hold"}\n')
        read_until(ours.fileno(), b"started")
        ours.close()
        assert process.wait(2) == 3


def test_stdin_and_stdout_may_be_a_terminal() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with started(theirs, theirs) as process:
        read_until(ours, b"ready")
        os.write(ours, b'{"id":1,"command":"kit.count","args":{"n":2000}}\n')
        data = read_until(ours, b'"done":true')
        assert data.count(b'"type":"chunk"') == 2000
        assert os.get_blocking(theirs), "the terminal's flags belong to others as well"
        process.terminate()
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    os.close(theirs)


def test_a_terminal_that_is_closed_is_a_host_that_is_gone() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with started(theirs, theirs, start_new_session=True) as process:
        os.close(theirs)
        read_until(ours, b"ready")
        os.close(ours)
        assert process.wait(3) in (0, 3)


def test_the_flags_of_the_hosts_pipes_stay_as_they_were(worker: Worker) -> None:
    worker.call("kit.count", {"n": 100})
    for fd in (0, 1):
        with open(f"/proc/{worker.pid}/fdinfo/{fd}", encoding="ascii") as info:
            flags = next(line for line in info if line.startswith("flags"))
        assert not int(flags.split()[1], 8) & os.O_NONBLOCK
    assert os.get_blocking(worker.stdin.fileno())


# ---- broken from the start ---------------------------------------------------------------------------


def shell(script: str) -> subprocess.CompletedProcess[bytes]:
    """A worker started by ``sh``, which can close descriptors."""
    words = ["sh", "-c", script, "sh", *command_line()]
    return subprocess.run(
        words, capture_output=True, timeout=PATIENCE, cwd=ROOT, env=environment(), check=False
    )


def test_a_closed_stdout_at_start_is_said_on_stderr_and_exits_2() -> None:
    done = shell('exec "$@" >&- </dev/null')
    assert done.returncode == 2
    assert b"stdout is closed" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_stdin_at_start_is_an_ended_one() -> None:
    done = shell('exec "$@" <&-')
    assert (done.returncode, types(parse(done.stdout))) == (0, ["ready", "bye"])


def test_a_closed_stderr_hurts_nothing() -> None:
    done = shell('echo \'{"id":1,"command":"kit.log_flood","args":{"n":5}}\' | "$@" 2>&-')
    assert types(parse(done.stdout)) == ["ready", "result", "bye"]


def test_a_broken_stdout_at_start_ends_the_worker() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with started(subprocess.PIPE, write_end) as process:
        os.close(write_end)
        assert process.wait(PATIENCE) == 3


def test_a_full_disk_behind_stdout_ends_the_worker() -> None:
    with open("/dev/full", "wb") as full, started(subprocess.PIPE, full) as process:
        assert process.wait(PATIENCE) == 3


# ---- who else writes ---------------------------------------------------------------------------------


def test_stray_prints_never_reach_stdout(framing: str, spawn: Spawn) -> None:
    worker = spawn(framing=framing)
    last = worker.call("kit.prints")
    assert last["stdin"] == "", "a handler's stdin is empty"
    worker.end()
    assert b"stray" not in worker.raw
    log = worker.final_log()
    for what in ("print", "os.write", "puts", "child", "fork"):
        assert f"stray {what}" in log


@pytest.mark.parametrize("how", ["exec", "fork"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_children_do_not_inherit_the_hosts_pipes(how: str, kind: str) -> None:
    """A child that lives on must not hold up the host's view of the worker's end."""
    if kind == "socket":
        ours, theirs = socket.socketpair()
        ends: tuple[int, int, int, int] = (theirs.fileno(), theirs.fileno(), ours.fileno(), ours.fileno())
        open_ends: list[Any] = [ours]
    else:
        (stdin, to_worker), (from_worker, stdout) = os.pipe(), os.pipe()
        ends = (stdin, stdout, to_worker, from_worker)
        open_ends = []
    child = 0
    with started(ends[0], ends[1]) as process:
        for fd in {ends[0], ends[1]}:
            os.close(fd) if kind == "pipe" else theirs.close()
        try:
            os.write(ends[2], b'{"id":1,"command":"kit.spawn_child","args":{"how":"%s"}}\n' % how.encode())
            data = read_until(ends[3], b'"done":true}\n')
            child = parse(data)[-1]["pid"]
            process.kill()
            assert read_until(ends[3], b"\0never") == b"", "EOF at once"
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
            for item in open_ends:
                item.close()
            if kind == "pipe":
                os.close(ends[2])
                os.close(ends[3])


def test_logs_are_json_lines_on_stderr_with_the_requests_id(worker: Worker) -> None:
    worker.call("kit.context", id="ctx")
    worker.end()
    records = [json.loads(line) for line in worker.final_log().splitlines()]
    mine = [record for record in records if "hello from kit.context" in record["message"]]
    assert (mine[0]["request_id"], mine[0]["level"], mine[0]["command"]) == ("ctx", "warning", "kit.context")


def test_logs_may_be_text_and_go_to_a_file(spawn: Spawn, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    worker = spawn("--log-format", "text", "--log-file", str(log))
    worker.call("kit.context")
    worker.end()
    assert "hello from kit.context" in log.read_text()
    assert worker.final_log() == ""


# ---- a host that does not read -----------------------------------------------------------------------


def test_a_host_that_never_reads_stderr_does_not_block_the_worker(spawn: Spawn) -> None:
    worker = spawn(read_stderr=False)
    for _ in range(3):
        assert worker.call("kit.log_flood", {"n": 3000})["type"] == "result"
    assert worker.call("stats")["log_lines_dropped"] > 0, "what was lost is told"
    assert worker.end()[1] == 0


@pytest.mark.parametrize(
    ("command", "counter"), [("kit.flood", "flooded"), ("kit.sync_flood", "sync_flooded")]
)
def test_a_host_that_does_not_read_stops_the_handlers_and_is_still_read_from(
    command: str, counter: str, spawn: Spawn
) -> None:
    worker = spawn()
    worker.request(command, {"size": 1000}, id="f")
    worker.type("chunk", "f")
    settled_memory = _settle(worker.pid)
    for number in range(5000):  # nobody reads: all of it must go in
        worker.send(id=f"p{number}", command="ping")
    worker.send(id="seen", command="kit.seen")
    worker.control("cancel", target="f")
    assert memory_mb(worker.pid) < settled_memory + 20
    last = worker.collect("f")[-1]
    assert last["type"] == "cancelled"
    made = worker.collect("seen")[-1]["seen"][counter]
    assert made * 1000 < 8 * 2**20, "what was made ahead is bounded"
    assert made <= last["seq"] + 200, "and everything that was made was sent"
    for number in range(5000):
        assert worker.collect(f"p{number}")[-1]["type"] == "pong"


def _settle(pid: int) -> float:
    """The memory of a worker once it computes nothing any more."""
    before, deadline = -1.0, time.monotonic() + PATIENCE
    pause = threading.Event()
    while time.monotonic() < deadline:
        now = _cpu_ticks(pid)
        if now == before:
            return memory_mb(pid)
        before = now
        pause.wait(0.15)
    raise TimeoutError("the worker goes on computing though nobody reads")


def _cpu_ticks(pid: int) -> float:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_short_replies_wait_up_to_8_mib_and_then_the_host_is_no_longer_read_from(spawn: Spawn) -> None:
    worker = spawn()
    text = "x" * 20_000
    sent, rest = 0, b""
    while not rest and sent < 3000:
        line = json.dumps({"id": sent, "command": "ping", "args": {"data": text}}).encode() + b"\n"
        rest = _write_what_is_taken(worker, line)
        sent += 1
    assert 8 * 2**20 < sent * len(text) < 14 * 2**20
    while rest:  # now the host reads again, and is read from again
        worker.read_some()
        rest = _write_what_is_taken(worker, rest, 0.0)
    for number in range(sent):
        assert worker.collect(number)[-1]["type"] == "pong"
    assert worker.call("ping")["type"] == "pong"


def _write_what_is_taken(worker: Worker, data: bytes, patience: float = 1.5) -> bytes:
    """Write until nothing is taken for ``patience`` seconds; what is left."""
    while data and select.select([], [worker.stdin], [], patience)[1]:
        data = data[os.write(worker.stdin.fileno(), data[:4096]) :]
    return data


# ---- fairness, leaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["kit.flood", "kit.sync_flood"])
def test_a_flood_does_not_starve_others(command: str, spawn: Spawn) -> None:
    worker = spawn()
    floods = [worker.request(command, {"size": 10_000}) for _ in range(3)]
    worker.type("chunk")
    begin = time.monotonic()
    for _ in range(20):
        assert worker.call("ping")["type"] == "pong"
        assert worker.call("kit.sync_echo")["type"] == "result"
    assert time.monotonic() - begin < 6
    for flood in floods:
        worker.control("cancel", target=flood)
    for flood in floods:
        assert worker.collect(flood)[-1]["type"] == "cancelled"


def test_a_generator_in_a_thread_is_cancelled_between_yields_and_its_finally_runs(spawn: Spawn) -> None:
    worker = spawn()
    flood = worker.request("kit.sync_flood", credit=5)
    polls = worker.request("kit.polls")
    worker.type("started", polls)
    for request in (flood, polls):
        worker.control("cancel", target=request)
        worker.collect(request)
    _until(worker, lambda seen: seen.get("sync_flood ended") == 1 and seen.get("saw cancel") == 1)
    assert worker.call("stats")["abandoned_threads"] == 0


def _until(worker: Worker, reached: Any) -> None:
    for _ in range(1000):
        if reached(worker.call("kit.seen")["seen"]):
            return
        worker.call("kit.count", {"n": 1, "pause_ms": 5})
    pytest.fail("never reached")


def test_a_stuck_thread_is_given_up_within_a_second_and_holds_no_slot(spawn: Spawn) -> None:
    worker = spawn("--max-inflight", "1")
    worker.request("kit.sync_hold", id="stuck")
    worker.type("started", "stuck")
    waiting = worker.request("kit.echo")
    begin = time.monotonic()
    worker.control("cancel", target="stuck")
    assert worker.collect("stuck")[-1]["type"] == "cancelled"
    assert worker.collect(waiting)[-1]["type"] == "result", "its slot is free"
    assert time.monotonic() - begin < 1.5
    assert worker.call("stats")["abandoned_threads"] == 1
    worker.call("kit.release")
    _until(worker, lambda seen: seen.get("hold  ended") == 1)
    assert worker.call("stats")["abandoned_threads"] == 0
    assert "released" not in types(worker.received), "what it yields after its end is dropped"


def test_no_descriptor_thread_or_task_is_left_by_2000_requests_cancelled_at_random(spawn: Spawn) -> None:
    import random

    random.seed(3)
    worker = spawn()
    commands = ["kit.hold", "kit.flood", "kit.sync_flood", "kit.count", "kit.sync_count", "kit.ask"]
    _burst(worker, commands, 200, random)
    before = worker.call("kit.process")
    for _ in range(9):
        _burst(worker, commands, 200, random)
    after = worker.call("kit.process")
    assert after["fds"] <= before["fds"] + 2
    assert after["threads"] <= before["threads"] + 40  # a pool, bounded by what ran at once
    for _ in range(200):
        if worker.call("kit.process")["tasks"] <= 2:
            break
    assert worker.call("kit.process")["tasks"] <= 2
    stats = worker.call("stats")
    assert (stats["queued"], stats["abandoned_threads"]) == (0, 0)


def _burst(worker: Worker, commands: list[str], count: int, random: Any) -> None:
    ids = [worker.request(random.choice(commands), credit=random.randint(1, 5)) for _ in range(count)]
    random.shuffle(ids)
    for request in ids:
        worker.control("cancel", target=request)
    for request in ids:
        worker.collect(request)


# ---- users' commands ---------------------------------------------------------------------------------


def test_users_commands_come_through_an_entry_point(tmp_path: Path) -> None:
    info = tmp_path / "their_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dspy_bridge.commands]\ntheirs = their_pack\n")
    (tmp_path / "their_pack.py").write_text(
        "import bridge\n\n\n@bridge.command\ndef theirs(args: dict) -> dict:\n    return {'mine': args}\n"
    )
    with Worker(commands=False, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as worker:
        assert "theirs" in worker.ready["commands"]
        assert worker.call("theirs", {"a": 1})["mine"] == {"a": 1}


def test_users_commands_are_found_beside_the_operators_shell(tmp_path: Path) -> None:
    (tmp_path / "here_commands.py").write_text(
        "import bridge\n\n\n@bridge.command\ndef here(args):\n    return 5\n"
    )
    flags = ("--commands", "here_commands")
    with Worker(*flags, commands=False, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as worker:
        assert worker.call("here")["value"] == 5
