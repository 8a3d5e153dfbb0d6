"""Where the system has no process or descriptor left, requests are answered and the family recovers."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.family.child import Child, Home
from bridge.family.spawner import MAX_BACKOFF_S, Family, Spawner
from bridge.family.template_process import TemplateProcess
from tests.family.conftest import WITHOUT_DSPY
from tests.family.conftest import Family as Families
from tests.support.processes import all_serving, children, template_of, wait_all_gone
from tests.support.worker import ROOT, types


@contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """While in here, a process can open nothing."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("whose", ["supervisor", "template"])
def test_a_death_is_told_and_made_good_though_descriptors_are_short(family: Families, whose: str) -> None:
    worker = family()
    all_serving(worker)
    with no_descriptors(worker.pid if whose == "supervisor" else template_of(worker)):
        assert worker.call("fam.die", {"how": "kill"})["code"] == "worker_died"
        assert worker.call("kit.where")["type"] == "result", "there is another one"
        while "no worker can be started" not in worker.log():
            worker.sync()
    assert len(all_serving(worker)) == 2
    assert worker.call("stats")["family"]["template_restarts"] == 0


def test_a_fork_that_fails_is_tried_again(family: Families, tmp_path: Path) -> None:
    (tmp_path / "few_forks.py").write_text(
        "import errno, os\n"
        "fork, left = os.fork, [1, 0, 0, 1, 1, 1]\n"
        "def sometimes():\n"
        "    if not left.pop(0):\n"
        "        raise BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')\n"
        "    return fork()\n"
        "os.fork = sometimes\n"
    )
    path = os.pathsep.join([WITHOUT_DSPY, str(tmp_path)])
    worker = family("--commands", "few_forks", env={"PYTHONPATH": path})
    assert worker.call("kit.where")["type"] == "result", "one is there"
    assert len(all_serving(worker)) == 2
    assert "temporarily unavailable" in worker.log()
    assert worker.call("stats")["family"]["template_restarts"] == 0


def test_somebody_takes_requests_where_all_are_worn_out_and_busy(family: Families) -> None:
    worker = family("--max-requests", "1")
    for number in range(3):
        worker.request("kit.hold", {"gate": str(number)}, id=number)
        worker.type("started", number)
    assert worker.call("kit.where", timeout_ms=5000)["type"] == "result"
    for number in range(3):
        worker.control("cancel", target=number)
        assert worker.collect(number)[-1]["type"] == "cancelled"


def test_the_pause_between_forks_has_a_bound() -> None:
    class Stub:
        age, finished, load, born, catching_up = 0.0, 0, 1, 1.0, False

        def time(self) -> float:
            return 1.0

        def attach(self, *_: object) -> None:
            """A template that says nothing."""

        def call_later(self, delay: float, *_: object) -> None:
            """A loop on which no time passes."""
            delays.append(delay)

    delays: list[float] = []
    stub: Any = Stub()
    spawner = Spawner(stub, cast(TemplateProcess, stub), cast(Family, stub))
    for _ in range(3000):
        spawner.note_death(stub)
    assert max(delays) == MAX_BACKOFF_S


def test_the_number_of_a_process_that_has_ended_is_not_signalled() -> None:
    """It may be another's by then."""
    loop = asyncio.new_event_loop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as another:
        child = Child(loop, cast(Home, None))
        child.forked(another.pid, os.pidfd_open(another.pid), 0)
        child.close()
        child.kill()
        another.communicate(b"\n")
    loop.close()
    assert another.returncode == 0


def test_the_end_of_the_input_is_told_once_to_a_worker_that_comes_later(family: Families) -> None:
    worker = family()
    all_serving(worker)
    template = template_of(worker)
    worker.request("kit.count", {"n": 60, "pause_ms": 10}, id="long")
    worker.type("chunk", "long")
    os.kill(template, signal.SIGSTOP)
    assert worker.call("fam.die", {"how": "kill"})["code"] == "worker_died"
    worker.request("kit.ask", id="waits")
    worker.close_stdin()
    os.kill(template, signal.SIGCONT)
    rest = worker.rest()
    assert [chunk for chunk in rest if chunk["id"] is None] == [{"id": None, "type": "bye", "reason": "eof"}]


@pytest.mark.parametrize("end", ["kill", "terminate", "hang up"])
def test_a_module_that_hangs_while_it_is_imported_outlives_nobody(
    family: Families, tmp_path: Path, end: str
) -> None:
    (tmp_path / "hangs.py").write_text(
        f"import time\nopen({str(tmp_path / 'begun')!r}, 'w').close()\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    worker = family("--commands", "hangs", env={"PYTHONPATH": path}, ready=False)
    while not (tmp_path / "begun").exists():
        pass
    pids = [worker.pid, *children(worker.pid)]
    assert len(pids) == 2
    if end == "hang up":
        worker.stdin.close()
        worker.stdout.close()
    else:
        worker.process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
        assert types(worker.rest()) == [], "no other line comes before ready"
    worker.wait(2)
    wait_all_gone(pids, 1.5)
