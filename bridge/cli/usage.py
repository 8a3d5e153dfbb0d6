"""The error for a wrong command line; apart from the parsers, so that a worker's start imports none."""

from __future__ import annotations


class Usage(Exception):
    """The command line is wrong; the text says how, for its writer."""


class WrongValue(ValueError):
    """A flag's value is wrong; the text says what to give instead."""
