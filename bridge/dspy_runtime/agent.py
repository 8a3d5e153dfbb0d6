"""Agents: DSPy's ReAct and ReActV2, with every step told to the host and tools that may be the host's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import dspy
from dspy.adapters.types.tool import ToolCallResults, ToolCalls

from bridge.dspy_runtime.field_readers import Kind
from bridge.dspy_runtime.json_schema import to_plain
from bridge.dspy_runtime.listeners import Emit, TokenListener
from bridge.dspy_runtime.predictor import REASONING
from bridge.dspy_runtime.signatures import defused
from bridge.dspy_runtime.streaming import MAX_DEPTH, Listener
from bridge.dspy_runtime.tools import AgentTool, Definition
from bridge.errors import BridgeError, Code, invalid_args
from bridge.redact import redact
from bridge.wire.codec import encode_plain
from bridge.wire.fallback import plain

if TYPE_CHECKING:
    from bridge.context import Context

AgentName = Literal["react", "native"]

#: Longest text of a tool's error that is told to the model.
MAX_ERROR_CHARS: Final = 2000
#: Longest name of a tool that a model made up, as it is told.
MAX_NAME_CHARS: Final = 100
#: The tool by which each agent says that it is done.
FINISH: Final = {"react": "finish", "native": "submit"}
# Fields the agents add themselves, and what their calls take beside the inputs.
_RESERVED: Final = {
    "react": {"trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters", REASONING},
    "native": {"history", "tools", "next_thought", "tool_calls", "termination_reason", "max_iters"},
}
_THOUGHT: Final = "next_thought"
_TRACEBACK: Final = "Traceback (most recent call last):"
# A line of a stack trace, always indented: Python's, JavaScript's and Java's, Elixir's and Erlang's, Ruby's.
_FRAME: Final = re.compile(
    r"\s+(?:File \".*\", line \d+|at \S.*[:(]\d+|(?:\(\S+ \S+\) )?\S+\.(?:exs?|erl):\d+:|from \S+:\d+:in )"
)


class Agent:
    """One run of an agent over ``tools``.

    ``name``: ``react`` writes its tool calls as text, ``native`` makes them by the LM's own means, several at
    a time. ``timeout_s``: how long a tool may take. ``program`` is to be run with :attr:`listeners`.

    Raises:
        BridgeError: ``invalid_args`` for a field or a tool whose name the agent needs itself.
    """

    def __init__(
        self,
        ctx: Context,
        name: AgentName,
        signature: type[dspy.Signature],
        tools: Mapping[str, Definition],
        *,
        max_iters: int,
        timeout_s: float,
        tokens: bool,
    ) -> None:
        _check_names(name, signature, tools)
        self._ctx = ctx
        self._timeout_s = timeout_s
        self._tools = tools
        #: What happened, by step: ``{"step", "thought", "calls"}``, a call being ``{"call_id", "name",
        #: "args", "content", "is_error"}``.
        self.trajectory: list[dict[str, Any]] = []
        own = [AgentTool(each, self.execute) for each in tools.values()]
        steps = StepListener(ctx.emit, self, tokens=tokens, native=name == "native")
        if name == "react":
            self.program: dspy.Module = dspy.ReAct(signature, own, max_iters)
            self.program.tools["finish"] = _Finish(self.program.tools["finish"])
            extract = _ExtractListener(ctx.emit, self, tokens=tokens)
            self.listeners: dict[dspy.Predict, Listener] = {
                self.program.react: steps,
                self.program.extract.predict: extract,
            }
        else:
            self.program = _NativeAgent(signature, own, max_iters)
            self.program.agent = self
            self.listeners = {self.program.react: steps}

    @property
    def step(self) -> int:
        """The number of the current step, from 1."""
        return len(self.trajectory)

    def reasoning(self) -> str:
        """All thoughts, a line each at least."""
        return "\n".join(step["thought"] for step in self.trajectory if step["thought"])

    def told_trajectory(self, limit: int) -> list[dict[str, Any]]:
        """The trajectory, with no more than about ``limit`` bytes of what tools gave."""
        left = limit
        for call in (call for step in self.trajectory for call in step["calls"]):
            left -= len(shown(call.get("content"))) * 2  # of a text that is not ASCII, characters say little
            if left < 0:
                call |= {"content": None, "omitted": True}
        return self.trajectory

    async def execute(self, tool: Definition, arguments: dict[str, Any]) -> str:
        """Run a tool and tell so. Gives what the model is to see, of a failure its description."""
        content, is_error = await self.call(tool.name, arguments)
        return f"Execution error in {tool.name}: {content}" if is_error else shown(content)

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """The same, as JSON values, and whether it failed. Never raises: the agent is to go on."""
        call_id = self._ctx.new_call_id()
        about = {"call_id": call_id, "name": name[:MAX_NAME_CHARS]}
        record: dict[str, Any] = {**about, "args": arguments}
        self.trajectory[-1]["calls"].append(record)
        step, tool = self.step, self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            content, is_error = f"Unknown tool: {about['name']}. There are: {known}.", True
        elif problem := tool.problem(arguments):
            content, is_error = problem, True
        else:
            content, is_error = await self._outcome(call_id, tool, arguments)
        said = {"content": content, "is_error": is_error}
        record |= said
        await self._ctx.emit({"type": "observation", "step": step, **about, **said})
        return content, is_error

    async def _outcome(self, call_id: str, tool: Definition, arguments: dict[str, Any]) -> tuple[Any, bool]:
        try:
            return harmless(await self._run(call_id, tool, arguments)), False
        except GeneratorExit:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it is the agent that is cancelled, not the tool that says so
            return describe(error), True

    async def _run(self, call_id: str, tool: Definition, arguments: dict[str, Any]) -> Any:
        chunk = {
            "type": "tool_call",
            "step": self.step,
            "call_id": call_id,
            "name": tool.name,
            "args": arguments,
            "host": tool.run is None,
        }
        if tool.run is None:
            return await self._ctx.ask(chunk, timeout_s=self._timeout_s)
        await self._ctx.emit(chunk)
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await tool.run(arguments)
        except TimeoutError:
            if limit.expired():
                raise BridgeError(f"The tool did not answer within {self._timeout_s:g} s.") from None
            raise


def harmless(value: Any) -> Any:
    """Anything as JSON values that do nothing in a prompt: no half characters, no markers of media."""
    return defused(plain(to_plain(value), MAX_DEPTH))


def shown(value: Any) -> str:
    """JSON values as a model is shown them: a text as it is."""
    return value if isinstance(value, str) else encode_plain(value).decode()


def describe(error: BaseException, *, typed: bool = True) -> str:
    """A failure in words for the model: no traceback, no paths, no secrets. ``typed``: an exception that is
    not the worker's own begins with its type."""
    try:
        text = error.message if isinstance(error, BridgeError) else str(error)
    except Exception:  # noqa: BLE001 - an exception's own code may raise anything
        text = ""
    if typed and not isinstance(error, BridgeError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    text = redact(_without_stack(str(harmless(text))))
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


def _without_stack(text: str) -> str:
    """``text`` without stack traces: of Python's the last line stays, of others what no frame is."""
    if _TRACEBACK in text:
        before, _, trace = text.partition(_TRACEBACK)
        lines = [line for line in trace.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
        text = " ".join(filter(None, [before.strip(), lines[-1] if lines else ""]))
    return "\n".join(line for line in text.splitlines() if not _FRAME.match(line))


class StepListener(TokenListener):
    """The calls that choose the next tools: a step each.

    Beside native tool calls models write as they like. What they say outside of DSPy's format is their
    thought then, although DSPy passes over it.
    """

    def __init__(self, emit: Emit, agent: Agent, *, tokens: bool, native: bool) -> None:
        super().__init__(emit, tokens=tokens)
        self.prose = native
        self._agent = agent
        self._open = False
        self._reset()

    def _reset(self) -> None:
        self._thought: list[str] = []
        self._spaces = ""
        self._is_prose = False
        self._told: str | None = None

    async def started(self) -> None:
        if self._open:  # the call before failed, and is made again with less to read
            await self.restart()
            return
        self._open = True
        self.sent = {}
        self._reset()
        self._agent.trajectory.append({"step": self._agent.step + 1, "thought": "", "calls": []})
        self.extra = {"step": self._agent.step}

    async def event(self, kind: Kind, field: str, text: str) -> None:
        if kind is Kind.PROSE and (self._is_prose or not self._thought):
            await self._more_prose(text)
        elif kind is Kind.CALLS:
            await self._tell()
        elif field != _THOUGHT:
            return
        elif kind is Kind.DELTA:
            if self._is_prose:  # it was but an introduction
                await self.restart()
            await self._more(text)
        elif kind is Kind.DONE:
            await self._tell()

    async def restart(self) -> None:
        if self._is_prose:
            await self._tell()  # DSPy hears it not, but it was said
        self._reset()
        self._agent.trajectory[-1]["thought"] = ""
        await super().restart()

    async def answered(self, values: dict[str, Any]) -> None:
        self._open = False
        await self._tell()
        # What a model wrote goes into the next prompt.
        for name in (_THOUGHT, "next_tool_args"):
            if isinstance(values.get(name), (str, dict)):
                values[name] = harmless(values[name])
        for call in getattr(values.get("tool_calls"), "tool_calls", ()):
            call.name, call.args = harmless(call.name), harmless(call.args)

    async def _more_prose(self, text: str) -> None:
        text = self._spaces + text if self._thought else text.lstrip()
        kept = text.rstrip()
        self._spaces = text[len(kept) :]
        if kept:
            self._is_prose = True
            await self._more(kept)

    async def _more(self, text: str) -> None:
        self._thought.append(text)
        if self._tokens:
            await self.token("thought", text)

    async def _tell(self) -> None:
        """Tell the thought as a whole, once."""
        thought = "".join(self._thought)
        if thought == self._told or not thought.strip():
            return
        if self._told is not None:
            await super().restart()
        self._told = thought
        if not self._tokens:
            self.count("thought", thought)
        self._agent.trajectory[-1]["thought"] = thought
        await self._emit({"type": "thought", **self.extra, "content": thought})


class _ExtractListener(TokenListener):
    """The call that makes the outputs of what was found: one step more."""

    def __init__(self, emit: Emit, agent: Agent, *, tokens: bool) -> None:
        super().__init__(emit, tokens=tokens)
        self._agent = agent

    async def started(self) -> None:
        await super().started()
        self.extra = {"step": self._agent.step + 1}


class _Finish(dspy.Tool):  # type: ignore[misc] # DSPy is untyped
    """ReAct's way to end. DSPy's own would answer needless arguments with a traceback for the model."""

    def __init__(self, own: dspy.Tool) -> None:
        super().__init__(own.func, name=own.name, desc=own.desc, args=own.args)

    async def acall(self, /, **arguments: Any) -> str:
        return "Completed."


class _NativeAgent(dspy.ReActV2):  # type: ignore[misc] # DSPy is untyped
    """ReActV2 whose tool calls of one turn run at the same time; DSPy's run one after the other."""

    agent: Agent

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        try:
            return await super().aforward(**inputs)
        except ValueError as error:  # it found no outputs, or a signature that it can not work with
            raise BridgeError(describe(error, typed=False), code=Code.LM_OUTPUT_INVALID) from error

    async def _aexecute_tool_calls(self, tool_calls: ToolCalls) -> tuple[Any, dict[str, Any] | None]:
        calls = tool_calls.tool_calls
        answers = await asyncio.gather(*(self._execute(call) for call in calls))
        final = None
        for call, (value, is_error) in zip(calls, answers, strict=True):
            if call.name == FINISH["native"] and not is_error:
                final = value
        values = [shown(harmless(value)) for value, _ in answers]
        failed = [is_error for _, is_error in answers]
        return ToolCallResults.from_tool_calls_and_values(tool_calls, values, failed), final

    async def _execute(self, call: Any) -> tuple[Any, bool]:
        arguments = call.args or {}
        if call.name != FINISH["native"]:
            return await self.agent.call(call.name, arguments)
        try:
            return await self.tools[call.name].acall(**arguments), False
        except Exception as error:  # noqa: BLE001 - the model is told, and tries again
            return describe(error), True


def _check_names(name: AgentName, signature: type[dspy.Signature], tools: Mapping[str, Definition]) -> None:
    taken = sorted(_RESERVED[name] & signature.fields.keys())
    if taken:
        raise invalid_args(
            f"The field {taken[0]!r} is one that the agent adds itself; please choose another name.",
            "$.args.signature",
        )
    if FINISH[name] in tools:
        raise invalid_args(
            f"The tool {FINISH[name]!r} is the agent's own; please choose another name.", "$.args.tools"
        )
