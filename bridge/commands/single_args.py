"""Args that the commands for one prediction share. No DSPy here."""

from __future__ import annotations

from typing import Any

import msgspec

from bridge.dspy_runtime.specs import AdapterName, CallConfig, LmSpec, Name, SignatureSpec
from bridge.errors import invalid_args
from bridge.wire.messages import Chunk

DEFAULT_SIGNATURE = "question -> answer"


class SingleArgs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``inputs``: an object of input fields; ``question`` is short for ``{"question": …}``."""

    signature: str | SignatureSpec = DEFAULT_SIGNATURE
    inputs: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    question: str | msgspec.UnsetType = msgspec.UNSET
    lm: Name | LmSpec | None = None
    adapter: AdapterName | None = None
    config: CallConfig | None = None


class Token(Chunk):
    """More of an output field's value. The deltas of a field joined are its value: a text as it is, other
    values as JSON, which come whole as soon as the model has finished them."""

    field: str
    delta: str


class Restart(Chunk):
    """What was streamed so far is void: the model's answer was malformed and is asked for again."""


def inputs_of(args: SingleArgs) -> tuple[dict[str, Any], str]:
    """The inputs and where they stand in the request.

    Raises:
        BridgeError: ``invalid_args`` unless exactly one of ``inputs`` and ``question`` is there.
    """
    if args.inputs is not msgspec.UNSET and args.question is not msgspec.UNSET:
        raise invalid_args('"inputs" and "question" exclude each other.', "$.args.question")
    if args.question is not msgspec.UNSET:
        return {"question": args.question}, "$.args"
    if args.inputs is msgspec.UNSET:
        raise invalid_args('"inputs" is missing: an object of input fields.', "$.args.inputs")
    return args.inputs, "$.args.inputs"
