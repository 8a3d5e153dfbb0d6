"""``stream_react_steps``: an agent's thoughts, tool calls and observations, then its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from bridge.commands.single_args import SingleArgs, inputs_of
from bridge.context import Context
from bridge.dspy_runtime.specs import ToolSpec
from bridge.errors import invalid_args
from bridge.registry import command
from bridge.wire.messages import Chunk, FinalChunk

if TYPE_CHECKING:
    from bridge.dspy_runtime.tool_shelf import ToolShelf
    from bridge.dspy_runtime.tools import Definition

MAX_ITERS = 1000
MAX_TOOLS = 128
DEFAULT_TIMEOUT_MS = 60_000


class ReactArgs(SingleArgs, forbid_unknown_fields=True, kw_only=True):
    """``tools``: objects for tools that the host runs, names or patterns (``files__*``) for those the worker
    was started with.

    ``agent``: ``react`` has the model write its tool calls as text, ``native`` uses the model's own, several
    at a time. ``tool_timeout_ms``: how long any tool may take. ``tokens``: stream thoughts and, with
    ``react``, the answer token by token. ``inputs``: an object of input fields; ``question`` is short for
    ``{"question": …}``.
    """

    tools: tuple[ToolSpec | str, ...] = ()
    max_iters: Annotated[int, msgspec.Meta(ge=1, le=MAX_ITERS)] = 20
    tool_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = DEFAULT_TIMEOUT_MS
    agent: Literal["react", "native"] = "react"
    tokens: bool = False


class Thought(Chunk):
    """What the model thinks before it calls tools; steps count from 1."""

    step: int
    content: str


class ToolCall(Chunk):
    """A tool is called. ``host``: the host is to run it and answer with ``tool_result``."""

    step: int
    call_id: str
    name: str
    args: dict[str, Any]
    host: bool


class Observation(Chunk):
    """What a tool gave, or, with ``is_error``, why it gave nothing. A call whose arguments do not fit the
    tool has no ``tool_call`` before it."""

    step: int
    call_id: str
    name: str
    content: Any
    is_error: bool


class StepToken(Chunk, tag="token"):
    """More of a ``thought``, or of an output field in the last step."""

    step: int
    field: str
    delta: str


class StepRestart(Chunk, tag="restart"):
    """What was streamed of this step is void: the model's answer was malformed and is asked for again."""

    step: int


class ReactAnswer(FinalChunk, tag="final_answer"):
    """``answer``: the first output field; ``output``: all of them. ``full_reasoning``: the thoughts, and
    the reasoning before the answer.

    ``trajectory``: ``{"step", "thought", "calls": [{"call_id", "name", "args", "content", "is_error"}]}`` by
    step. What would make the chunk too long is told in the ``observation`` chunks only; ``content`` is then
    null and ``"omitted"`` true.
    """

    answer: Any
    output: dict[str, Any]
    full_reasoning: str
    trajectory: list[dict[str, Any]]
    usage: dict[str, int]


@command("stream_react_steps", chunks=(Thought, ToolCall, Observation, StepToken, StepRestart, ReactAnswer))
async def stream_react_steps(args: ReactArgs, ctx: Context) -> ReactAnswer:
    """Let an agent think and call tools until it can answer.

    A tool that fails, takes too long, or gets arguments that do not fit its JSON Schema ends nothing: the
    model is told and goes on.
    """
    inputs, path = inputs_of(args)
    from bridge.dspy_runtime import loader

    runtime = await loader.runtime(ctx.options)
    from bridge.dspy_runtime import single
    from bridge.dspy_runtime.agent import Agent
    from bridge.dspy_runtime.predictor import REASONING

    with single.prepared(ctx, runtime, args, inputs, path) as run:
        tools = await _collect(args.tools, runtime.tools)
        agent = Agent(
            ctx,
            args.agent,
            run.compiled.signature,
            tools,
            max_iters=args.max_iters,
            timeout_s=args.tool_timeout_ms / 1000,
            tokens=args.tokens,
        )
        for predictor in agent.listeners:
            predictor.update_config(**run.config)
        prediction = await run(agent.program, agent.listeners, native_tools=args.agent == "native")
        output = single.output(prediction, run.compiled.outputs)
        reasoning = [agent.reasoning(), str(prediction.get(REASONING) or "")]
        return ReactAnswer(
            answer=output.get(run.compiled.outputs[0]),
            output=output,
            full_reasoning="\n".join(filter(None, reasoning)),
            trajectory=agent.told_trajectory(ctx.options.max_line_bytes // 2),
            usage=run.usage.usage,
        )


async def _collect(wanted: tuple[ToolSpec | str, ...], shelf: ToolShelf) -> dict[str, Definition]:
    """The request's tools by name.

    Raises:
        BridgeError: ``invalid_args`` for a tool that is wrong or there twice, ``unknown_tool``.
    """
    from bridge.dspy_runtime.tools import declared

    tools: dict[str, Definition] = {}
    for index, each in enumerate(wanted):
        path = f"$.args.tools[{index}]"
        found = await shelf.pick(each) if isinstance(each, str) else [declared(each, path)]
        for tool in found:
            known = tools.get(tool.name)
            if known is not None and (known.run is None or tool.run is None):
                raise invalid_args(f"The tool {tool.name!r} is there twice.", path)
            tools[tool.name] = tool
    if len(tools) > MAX_TOOLS:
        raise invalid_args(f"An agent takes at most {MAX_TOOLS} tools, not {len(tools)}.", "$.args.tools")
    return tools
