"""Running a predictor over the items of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dspy

from bridge.dspy_runtime.batch import Batch, Outcome
from bridge.dspy_runtime.errors import to_bridge_error
from bridge.dspy_runtime.json_schema import to_plain
from bridge.dspy_runtime.signature_fields import sort_fields
from bridge.dspy_runtime.usage import CallUsage, add, no_usage
from bridge.errors import BridgeError, invalid_args

if TYPE_CHECKING:
    from bridge.dspy_runtime.lm import Lease
    from bridge.dspy_runtime.runtime import Runtime
    from bridge.dspy_runtime.signatures import CompiledSignature

#: The field that a chain of thought puts before the outputs.
REASONING = "reasoning"
# OpenAI's chat completions do not tell thoughts, and DSPy does not ask Gemini for them.
_SILENT_THINKERS = frozenset({"openai", "azure", "gemini"})


# Building a signature class costs a millisecond, its system message another: programs are made once for each
# signature. They keep nothing of their calls.
_programs: WeakKeyDictionary[CompiledSignature, dict[tuple[str, bool], dspy.Module]] = WeakKeyDictionary()


def make_module(
    name: str, compiled: CompiledSignature, lease: Lease | None = None, effort: str | None = None
) -> dspy.Module:
    """A program of one predictor, ``predict`` or ``chain_of_thought``, shared by all requests for it.

    A chain of thought over an LM that is asked to think (``effort``, or its own ``reasoning_effort``) and
    tells its thoughts has these as its reasoning. One over a signature that has ``reasoning`` among its
    outputs adds none.

    Raises:
        BridgeError: ``reasoning`` is an input, or the only output.
    """
    native = name == "chain_of_thought" and lease is not None and thinks(lease, effort)
    programs = _programs.setdefault(compiled, {})
    if (name, native) not in programs:
        programs[name, native] = _make(name, compiled.signature, native=native)
    return programs[name, native]


def _make(name: str, signature: type[dspy.Signature], *, native: bool) -> dspy.Module:
    if name == "chain_of_thought":
        if REASONING in signature.input_fields or [*signature.output_fields] == [REASONING]:
            raise invalid_args(
                'A chain of thought fills the output field "reasoning" before the others: it can not be an '
                "input, nor the only output.",
                "$.args.signature",
            )
        if REASONING not in signature.output_fields:
            program = dspy.ChainOfThought(signature, rationale_field_type=dspy.Reasoning if native else str)
            sort_fields(program.predict.signature)
            return program
    return dspy.Predict(signature)


def thinks(lease: Lease, effort: str | None) -> bool:
    """Whether the LM is asked to think natively, and will tell its thoughts."""
    effort = effort or lease.lm.kwargs.get("reasoning_effort")
    if effort is None or effort == "none":
        return False
    silent = lease.interned.provider in _SILENT_THINKERS and lease.lm.model_type == "chat"
    return not silent and bool(lease.lm.supports_reasoning)


def settings(runtime: Runtime, lease: Lease) -> dict[str, Any]:
    """What ``dspy.context`` is to be entered with for a request."""
    return {
        "lm": lease.lm,
        "adapter": runtime.adapter(lease.adapter),
        "trace": None,
        "disable_history": True,
        "warn_on_type_mismatch": False,  # inputs are checked before
        "send_stream": None,
    }


class ItemRunner:
    """Gives a batch its workers: each sets DSPy up once and then runs item after item."""

    def __init__(
        self,
        module: dspy.Module,
        compiled: CompiledSignature,
        items: list[dict[str, Any]],
        config: dict[str, Any],
        context: dict[str, Any],
        lease: Lease,
    ) -> None:
        self._module = module
        self._compiled = compiled
        self._items = items
        self._extra = {"config": config} if config else {}
        self._context = context
        self._lease = lease
        #: What the calls of items that were cancelled had cost.
        self.unfinished = no_usage()

    async def worker(self, batch: Batch) -> None:
        """Run items of ``batch`` until there are no more."""
        usage = CallUsage()
        with (
            self._lease.connection() as lm,
            dspy.context(**{**self._context, "lm": lm, "usage_tracker": usage}),
        ):
            try:
                while (index := await batch.next_index()) is not None:
                    batch.finish(await self._run(index, usage))
            finally:
                add(self.unfinished, usage.take())

    async def _run(self, index: int, usage: CallUsage) -> Outcome:
        try:
            inputs = self._compiled.coerce(self._items[index], f"$.args.items[{index}]")
        except BridgeError as error:
            return Outcome(index, no_usage(), error=error)
        try:
            prediction = await self._module.acall(**inputs, **self._extra)
            self._compiled.check_outputs(prediction)
        except Exception as error:  # noqa: BLE001 - one item's failure is that item's answer
            return Outcome(index, usage.take(), error=to_bridge_error(error, self._lease.about))
        output = {name: item if type(item) is str else to_plain(item) for name, item in prediction.items()}
        return Outcome(index, usage.take(), output=output)
