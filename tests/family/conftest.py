"""Families of workers, without DSPy unless a test wants it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.worker import ROOT, Worker

WITHOUT_DSPY = os.pathsep.join([str(ROOT / "tests" / "support" / "without_dspy"), str(ROOT)])

Family = Callable[..., Worker]


@pytest.fixture
def family(spawn: Spawn) -> Family:
    """Starts families: as ``spawn``, with two workers unless a flag says otherwise."""

    def start(*flags: str, dspy: bool = False, env: dict[str, str] | None = None, **options: Any) -> Worker:
        workers = () if "--workers" in flags else ("--workers", "2")
        path = {} if dspy else {"PYTHONPATH": WITHOUT_DSPY}
        flags = (*workers, "--commands", "tests.support.family_commands", *flags)
        return spawn(*flags, env={**path, **(env or {})}, **options)

    return start
