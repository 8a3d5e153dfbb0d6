"""``stream_chain_of_thought``: the reasoning line by line while the model generates it, then the answer."""

from __future__ import annotations

from typing import Any, Literal

from bridge.commands.single_args import Restart, SingleArgs, Token, inputs_of
from bridge.context import Context
from bridge.registry import command
from bridge.wire.messages import Chunk, FinalChunk


class ThoughtArgs(SingleArgs, forbid_unknown_fields=True, kw_only=True):
    """``tokens``: stream every output field token by token as well.

    ``inputs``: an object of input fields; ``question`` is short for ``{"question": …}``.
    """

    tokens: bool = False


class Thinking(Chunk):
    """The call to the model has begun, or its answer has."""

    status: Literal["started", "answering"]


class ReasoningStep(Chunk):
    """One line of reasoning, counted from 1, as soon as the model has finished it."""

    step: int
    content: str


class Answer(FinalChunk, tag="final_answer"):
    """``answer``: the first output field that is not reasoning; ``output``: all of them.

    ``full_reasoning``: all reasoning as it was written; what a model thought without being asked to comes
    first.
    """

    answer: Any
    output: dict[str, Any]
    full_reasoning: str
    usage: dict[str, int]


@command("stream_chain_of_thought", chunks=(Thinking, ReasoningStep, Token, Restart, Answer))
async def stream_chain_of_thought(args: ThoughtArgs, ctx: Context) -> Answer:
    """Reason step by step, then answer.

    With a ``reasoning_effort`` and a model that tells its thoughts these are the reasoning; other models
    write it before their answer. After a ``restart`` steps count from 1 again.
    """
    inputs, path = inputs_of(args)
    from bridge.dspy_runtime import loader

    runtime = await loader.runtime(ctx.options)
    from bridge.dspy_runtime import predictor, single
    from bridge.dspy_runtime.listeners import ThoughtListener
    from bridge.dspy_runtime.streaming import value_text

    with single.prepared(ctx, runtime, args, inputs, path) as run:
        program = predictor.make_module("chain_of_thought", run.compiled, run.lease, run.effort)
        listener = ThoughtListener(ctx.emit, tokens=args.tokens)
        prediction = await run(program, {single.single_predictor(program): listener}, config=run.config)
        output = single.output(prediction, prediction)
        name = next(name for name in run.compiled.outputs if name != predictor.REASONING)
        return Answer(
            answer=output.get(name),
            output=output,
            full_reasoning=listener.all_reasoning(value_text(prediction.get(predictor.REASONING))),
            usage=run.usage.usage,
        )
