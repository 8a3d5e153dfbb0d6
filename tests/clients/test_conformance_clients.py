"""Every client against the kit's cases, in every framing it speaks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.conformance.client_kit import load_cases, run_client_case
from tests.support.drivers import FRAMINGS, LACKS, Drivers

#: The cases that a client's second framing is held against: the others are the same code in either.
FRAMED = ("lines", "start", "routing", "integrity", "death")

CASES = [
    pytest.param(name, framing, case, id=f"{name}-{framing}-{case['title']}")
    for name, framing in FRAMINGS
    for case in load_cases(framing=framing, without=LACKS.get(name, ()))
    if framing == "lines" or case["title"].startswith(FRAMED)
]


@pytest.mark.parametrize(("name", "framing", "case"), CASES)
def test_the_client_conforms(name: str, framing: str, case: dict[str, Any], drivers: Drivers) -> None:
    kept = False
    try:
        run_client_case(case, drivers.get(name), framing)
        kept = True
    finally:
        if not kept:
            drivers.give_up(name)


def test_every_case_has_a_name_of_its_own() -> None:
    titles = [case["title"] for case in load_cases()]
    assert len(titles) >= 100
    assert not [title for title, same in itertools.groupby(sorted(titles)) if len(list(same)) > 1]
