"""The DSPy parts of command args, as typed Structs.

No DSPy here: commands import these at start-up, before anything heavy is loaded.
"""

from typing import Annotated, Any, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
AdapterName = Literal["chat", "json", "xml"]

#: The model whose answers come from a script; ``scripted/<anything>`` is one, too.
SCRIPTED = "scripted"


class ScriptError(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A failure for the ``scripted`` LM to play: an HTTP ``status`` or an error ``code``."""

    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    code: str | None = None
    message: str = "A scripted failure."
    retry_after_s: NonNegativeFloat | None = None


class ScriptEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One scripted answer: when it applies (``match``) and what it says.

    ``match`` is an object of input fields and their exact values, or a string to be found anywhere in the
    inputs; without it the entry always applies. ``outputs`` holds values for output fields (those left out
    are echoed), ``text`` replaces the whole answer verbatim, ``reasoning`` is native thinking, ``error`` a
    failure, ``delay_s`` a wait before either. ``times``: the entry applies that often and no more.
    """

    match: str | dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    text: str | None = None
    reasoning: str | None = None
    error: ScriptError | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    times: Positive | None = None


class LmSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A language model and how to call it. Absent settings are left to the provider.

    ``timeout_s`` bounds each wait of one attempt (default 300), ``num_retries`` the further attempts after a
    passing failure (default 2, at 1, 2, 4… seconds or the provider's ``Retry-After``). ``cache`` reuses
    answers to identical calls: off unless asked for or the worker has ``--cache-dir``. ``script`` and
    ``tokens_per_s`` are for the ``scripted`` model only.
    """

    model: Name
    api_key: str | None = None
    api_base: str | None = None
    api_version: str | None = None
    model_type: Literal["chat", "responses", "text"] = "chat"
    temperature: NonNegativeFloat | None = None
    max_tokens: Positive | None = None
    top_p: NonNegativeFloat | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    timeout_s: Seconds | None = None
    num_retries: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    cache: bool | None = None
    script: list[ScriptEntry] | None = None
    tokens_per_s: NonNegativeFloat | None = None


class CallConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of single LM calls, over those of the LM.

    ``rollout_id`` tells otherwise identical calls apart in the cache (with a temperature above 0).
    """

    temperature: NonNegativeFloat | None = None
    max_tokens: Positive | None = None
    top_p: NonNegativeFloat | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    rollout_id: int | None = None
    cache: bool | None = None


class SignatureSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A signature as an object.

    ``inputs`` and ``outputs`` are lists of names (``"age"``, ``"age: int"``) or objects from name to a type
    (``"int"``), ``{"type": …, "desc": …}``, or a JSON Schema.
    """

    inputs: list[str] | dict[str, Any]
    outputs: list[str] | dict[str, Any]
    instructions: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None


class ToolSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A tool that the host runs.

    ``args``: a JSON Schema by argument. ``required``: the arguments that must be there; if it is left out,
    all that have no ``default``.
    """

    name: str
    desc: Annotated[str, msgspec.Meta(max_length=100_000)] = ""
    args: dict[str, dict[str, Any]] = {}
    required: list[str] | None = None


def is_scripted(model: str) -> bool:
    """Whether ``model`` answers from a script rather than from a language model."""
    return model == SCRIPTED or model.startswith(SCRIPTED + "/")


def config_kwargs(config: CallConfig | None) -> dict[str, Any]:
    """The settings that were given, by name."""
    if config is None:
        return {}
    return {name: value for name in config.__struct_fields__ if (value := getattr(config, name)) is not None}
