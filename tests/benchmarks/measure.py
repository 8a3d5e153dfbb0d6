"""Rows, targets, and measuring two things in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How thorough a run is. ``quick`` is for seeing that it works, not for figures."""

    quick: bool = False

    @property
    def rounds(self) -> int:
        """How often each thing is measured."""
        return 2 if self.quick else 5

    def scaled(self, count: int) -> int:
        """``count``, or a twentieth of it."""
        return max(1, count // 20) if self.quick else count


@dataclass(frozen=True)
class Target:
    """A bound for a row's ``ratio`` or ``value``."""

    of: str
    bound: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{self.of} {'≤' if self.at_most else '≥'} {self.bound:,g}"

    def met(self, row: Row) -> bool | None:
        """Whether ``row`` keeps the bound; None when it has no such figure."""
        figure = row.ratio if self.of == "ratio" else row.value
        if figure is None:
            return None
        return figure <= self.bound if self.at_most else figure >= self.bound


@dataclass
class Row:
    """One line of the table: a figure, the floor's, and what is aimed at.

    ``ratio`` is the median of the rounds' own ratios where they were measured in turn, else value / floor.
    """

    name: str
    value: float
    unit: str
    floor: str | None = None
    floor_value: float | None = None
    ratio: float | None = None
    target: Target | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ratio is None and self.floor_value:
            self.ratio = self.value / self.floor_value

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.target.met(self)


@dataclass(frozen=True)
class Pair:
    """Figures of a thing and of its floor, round by round."""

    values: list[float]
    floors: list[float]

    @property
    def value(self) -> float:
        """The thing's median."""
        return statistics.median(self.values)

    @property
    def floor(self) -> float:
        """The floor's median."""
        return statistics.median(self.floors)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: noise that lasts longer than a round drops out."""
        return statistics.median(value / floor for value, floor in zip(self.values, self.floors, strict=True))

    def row(self, name: str, unit: str, floor: str, target: Target | None = None, **extra: Any) -> Row:
        """The row of these figures."""
        samples = {"values": self.values, "floors": self.floors, **extra}
        return Row(name, self.value, unit, floor, self.floor, self.ratio, target, samples)


def in_turn(rounds: int, value: Callable[[], float], floor: Callable[[], float]) -> Pair:
    """Measure both ``rounds`` times, one after the other, after a round that does not count."""
    value()
    floor()
    pair = Pair([], [])
    for number in range(rounds):
        for measure, figures in _order(number, (value, pair.values), (floor, pair.floors)):
            figures.append(measure())
    return pair


def _order(number: int, *both: tuple[Callable[[], float], list[float]]) -> Iterator[Any]:
    return reversed(both) if number % 2 else iter(both)


def percentile(figures: Sequence[float], percent: float) -> float:
    """The ``percent``-th percentile (nearest rank)."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
