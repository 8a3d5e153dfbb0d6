"""``stream_predict``: one prediction, token by token."""

from __future__ import annotations

from typing import Any, Literal

from bridge.commands.single_args import Restart, SingleArgs, Token, inputs_of
from bridge.context import Context
from bridge.errors import BridgeError, Code
from bridge.registry import command
from bridge.wire.messages import FinalChunk


class PredictArgs(SingleArgs, forbid_unknown_fields=True, kw_only=True):
    """Either ``signature`` or ``program``. ``tokens`` false: only the prediction, as soon as it is there.

    ``inputs``: an object of input fields; ``question`` is short for ``{"question": …}``.
    """

    module: Literal["predict", "chain_of_thought"] = "predict"
    program: str | None = None
    tokens: bool = True


class PredictionDone(FinalChunk, tag="prediction"):
    """All output fields, and what the LM calls cost."""

    output: dict[str, Any]
    usage: dict[str, int]


@command("stream_predict", chunks=(Token, Restart, PredictionDone))
async def stream_predict(args: PredictArgs, ctx: Context) -> PredictionDone:
    """Predict once, with every output field streamed while the model writes it.

    A failure before the first token is tried again as the LM is configured to; after it the stream ends with
    the error, whose ``details.streamed`` says what was sent and is void.
    """
    if args.program is not None:
        raise BridgeError(f"Unknown program: {args.program[:200]}", code=Code.UNKNOWN_PROGRAM)
    inputs, path = inputs_of(args)
    from bridge.dspy_runtime import loader

    runtime = await loader.runtime(ctx.options)
    from bridge.dspy_runtime import predictor, single
    from bridge.dspy_runtime.listeners import TokenListener

    with single.prepared(ctx, runtime, args, inputs, path) as run:
        program = predictor.make_module(args.module, run.compiled, run.lease, run.effort)
        listener = TokenListener(ctx.emit, tokens=args.tokens)
        prediction = await run(program, {single.single_predictor(program): listener}, config=run.config)
        return PredictionDone(output=single.output(prediction, prediction), usage=run.usage.usage)
