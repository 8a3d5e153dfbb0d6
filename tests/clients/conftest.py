"""Drivers of the clients, one process a language, and workers that none of them leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.drivers import COMMANDS, LACKS, Driver, Drivers, Start
from tests.support.worker import command_line


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    """The drivers that are running."""
    drivers = Drivers()
    yield drivers
    drivers.close()


@pytest.fixture(params=list(COMMANDS))
def language(request: pytest.FixtureRequest) -> str:
    """Every language there is a client in."""
    return str(request.param)


@pytest.fixture(params=[name for name in COMMANDS if "pool" not in LACKS.get(name, ())])
def pooled(request: pytest.FixtureRequest) -> str:
    """Every language whose client has pools of several workers."""
    return str(request.param)


@pytest.fixture
def start(language: str, drivers: Drivers) -> Iterator[Start]:
    """A client of our own worker: ``start(flags…, workers=…)`` gives the driver.

    It is stopped afterwards, and the driver given up when it can not be.
    """
    yield from _starting(drivers, language)


@pytest.fixture
def start_pool(pooled: str, drivers: Drivers) -> Iterator[Start]:
    """As ``start``, in the languages with pools."""
    yield from _starting(drivers, pooled)


def _starting(drivers: Drivers, language: str) -> Iterator[Start]:
    def begin(*flags: str, **fields: Any) -> Driver:
        driver = drivers.get(language)
        driver.forget_errors()
        driver.start(command_line(*flags), **fields)
        return driver

    stopped = False
    try:
        yield begin
        drivers.get(language).stop()
        stopped = True
    finally:
        if not stopped:
            drivers.give_up(language)
