"""What the template does so that its workers need not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.family.conftest import Family
from tests.support.handlers import KEY
from tests.support.processes import all_serving, template_of, workers_of
from tests.support.provider import MODELS, Provider, Reply
from tests.support.streams import fit
from tests.support.worker import types


def answering() -> Provider:
    """A provider whose model knows the answer."""
    return Provider(lambda request: Reply(fit(request, {"answer": "42"})))


def batch(address: str, cache: bool = False) -> dict[str, Any]:
    """Args of a batch of one item, for a provider at ``address``."""
    lm = {"model": MODELS["openai"], "api_base": address, "api_key": KEY, "num_retries": 0, "cache": cache}
    return {"signature": "question -> answer", "items": [{"question": "?"}], "lm": lm}


@pytest.mark.parametrize("dspy", [False, True], ids=["without DSPy", "with DSPy"])
def test_a_worker_is_forked_with_all_that_it_runs(family: Family, dspy: bool) -> None:
    worker = family("--commands", "tests.support.fork_commands", dspy=dspy)
    assert worker.call("kit.imported")["modules"] == []


def test_a_call_of_a_language_model_loads_nothing_anew(family: Family) -> None:
    worker = family("--commands", "tests.support.fork_commands", dspy=True)
    with answering() as provider:
        there, nowhere = provider.address("openai"), "https://127.0.0.1:1/v1"
        for address, ends in ((there, "prediction"), (nowhere, "error")):
            for _ in range(4):  # the workers take turns
                assert types(worker.stream("stream_predict_batch", batch(address))) == [ends, "complete"]
        streamed = {**batch(there), "inputs": {"question": "?"}}
        del streamed["items"]
        for _ in range(2):
            assert worker.stream("stream_predict", streamed)[-1]["type"] == "prediction"
    for _ in range(2):
        told = worker.call("kit.imported")
        assert (told["modules"], told["had_prices"]) == ([], True)


def test_the_template_has_one_thread_and_its_own_sockets(family: Family) -> None:
    worker = family(dspy=True)
    workers_of(worker)  # all of them: the template has nothing in hand
    template = Path(f"/proc/{template_of(worker)}")
    assert len([*(template / "task").iterdir()]) == 1
    opened = [os.readlink(fd) for fd in (template / "fd").iterdir()]
    assert sum(file.startswith("socket:") for file in opened) == 3, "the supervisor's and the wake-up pair"
    assert not [file for file in opened if file.startswith("anon_inode:")], "no loop is left"


def test_no_database_is_open_across_a_fork(family: Family, tmp_path: Path) -> None:
    worker = family("--cache-dir", str(tmp_path), dspy=True)
    for pid in (template_of(worker), *all_serving(worker)):
        files = map(os.readlink, Path(f"/proc/{pid}/fd").iterdir())
        assert not [file for file in files if file.startswith(str(tmp_path))]
    with answering() as provider:
        args = batch(provider.address("openai"), cache=True)
        for _ in range(4):
            assert types(worker.stream("stream_predict_batch", args)) == ["prediction", "complete"]
        assert len(provider.requests) == 1, "what one worker has asked all know"
