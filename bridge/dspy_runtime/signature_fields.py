"""Signatures that know their input and output fields.

DSPy sorts a signature's fields anew whenever it is asked for one side of them, some 18 times a call.
"""

from __future__ import annotations

from typing import Any

import dspy

_Meta: Any = type(dspy.Signature)


class _Sorted(_Meta):  # type: ignore[misc] # DSPy is untyped
    """The class of signature classes, with each side's fields sorted out once.

    What is made from such a signature (``with_instructions``, ``append`` …) is DSPy's own again.
    """

    @property
    def input_fields(cls) -> dict[str, Any]:
        return {**_sides(cls)[1]}

    @property
    def output_fields(cls) -> dict[str, Any]:
        return {**_sides(cls)[2]}


def sort_fields(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """``signature`` itself, quicker from now on. One whose class is not DSPy's own stays as it is."""
    if type(signature) is _Meta:
        signature.__class__ = _Sorted
    return signature


def _sides(cls: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    # pydantic puts another dictionary in this one's place when it rebuilds a class.
    fields = cls.__pydantic_fields__
    known: tuple[Any, dict[str, Any], dict[str, Any]] | None = cls.__dict__.get("__sorted_fields__")
    if known is None or known[0] is not fields:
        sides = [_Meta._get_fields_with_type(cls, side) for side in ("input", "output")]
        known = (fields, *sides)
        type.__setattr__(cls, "__sorted_fields__", known)
    return known
