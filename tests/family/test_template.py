"""What the template does so that its workers need not."""

from __future__ import annotations

import pytest

from tests.family.conftest import Family


@pytest.mark.parametrize("dspy", [False, True], ids=["without DSPy", "with DSPy"])
def test_a_worker_is_forked_with_all_that_it_runs(family: Family, dspy: bool) -> None:
    worker = family("--commands", "tests.support.fork_commands", dspy=dspy)
    assert worker.call("kit.imported")["modules"] == []
