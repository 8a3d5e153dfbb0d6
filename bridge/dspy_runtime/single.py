"""One run of a program with everything it streams: what the streaming commands share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import dspy

from bridge.dspy_runtime import adapters, predictor
from bridge.dspy_runtime.errors import to_bridge_error
from bridge.dspy_runtime.json_schema import to_plain
from bridge.dspy_runtime.specs import CallConfig, config_kwargs
from bridge.dspy_runtime.streaming import FieldStream, Listener
from bridge.dspy_runtime.usage import CallUsage
from bridge.errors import invalid_args

if TYPE_CHECKING:
    from bridge.context import Context
    from bridge.dspy_runtime.lm import Lease
    from bridge.dspy_runtime.runtime import Runtime
    from bridge.dspy_runtime.signatures import CompiledSignature


class Run:
    """A request's LM, signature and inputs, ready to run a program."""

    def __init__(
        self,
        runtime: Runtime,
        lease: Lease,
        compiled: CompiledSignature,
        inputs: dict[str, Any],
        config: CallConfig | None,
    ) -> None:
        self.runtime = runtime
        self.lease = lease
        self.compiled = compiled
        self.effort = config.reasoning_effort if config else None
        self.usage = CallUsage()
        self._inputs = inputs
        #: The settings of single LM calls that the request gives.
        self.config = config_kwargs(config)

    async def __call__(
        self,
        program: dspy.Module,
        listeners: Mapping[dspy.Predict, Listener],
        *,
        native_tools: bool = False,
        **extra: Any,
    ) -> dspy.Prediction:
        """The program's prediction; ``listeners`` hear its predictors' calls meanwhile.

        ``native_tools``: have adapters offer tools by the LM's own means. ``extra``: what the program takes
        beside the inputs.

        Raises:
            BridgeError: what went wrong, as the host is to be told.
        """
        settings = predictor.settings(self.runtime, self.lease) | {
            "send_stream": FieldStream(listeners),
            "stream_listeners": [],
            "usage_tracker": self.usage,
            "track_usage": True,  # has LiteLLM ask for the usage of streams; otherwise it guesses
        }
        if native_tools:
            settings["adapter"] = adapters.adapter(self.lease.adapter, native_tools=True)
        try:
            with self.lease.connection() as lm, dspy.context(**{**settings, "lm": lm}):
                prediction: dspy.Prediction = await program.acall(**self._inputs, **extra)
            self.compiled.check_outputs(prediction)
        except Exception as error:
            raise to_bridge_error(error, self.lease.about) from error
        return prediction


#: Where inputs stand that were given as ``question``.
SHORTHAND = "$.args"


class Request(Protocol):
    """What of a request's args says how to run."""

    signature: Any
    lm: Any
    adapter: Any
    config: Any


@contextmanager
def prepared(
    ctx: Context, runtime: Runtime, args: Request, inputs: dict[str, Any], path: str
) -> Iterator[Run]:
    """What a request runs with. Its terminal chunk, whichever it will be, tells the ``usage``.

    ``path``: where the inputs stand in the request.

    Raises:
        BridgeError: the LM, the signature or the inputs are wrong.
    """
    with runtime.lms.lease(args.lm, args.adapter) as lease:
        for name, value in lease.terminal_fields.items():
            ctx.label(name, value)
        compiled = runtime.signatures.compile(args.signature)
        if path == SHORTHAND and "question" not in compiled.signature.input_fields:
            names = ", ".join(compiled.signature.input_fields)
            raise invalid_args(
                f'The signature has no input field "question"; give "inputs" with {names}.',
                f"{path}.question",
            )
        with dspy.context(lm=lease.lm):  # what a provider takes decides what becomes of media
            coerced = compiled.coerce(inputs, path)
        run = Run(runtime, lease, compiled, coerced, args.config)
        ctx.label("usage", run.usage.usage)
        yield run


def output(prediction: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """The fields ``names`` of a prediction, as they are told to a host."""
    return {name: to_plain(prediction[name]) for name in names if name in prediction}


def single_predictor(program: dspy.Module) -> dspy.Predict:
    """The predictor of a program that has one."""
    ((_, found),) = program.named_predictors()
    predict: dspy.Predict = found
    return predict
