"""Agents: DSPy's ReAct and ReActV2, with every step told to the host and tools that may be the host's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import dspy
import pydantic
from dspy.adapters.types.tool import ToolCallResults, ToolCalls

from bridge.dspy_runtime.errors import first_problem
from bridge.dspy_runtime.field_readers import Kind
from bridge.dspy_runtime.listeners import Emit, TokenListener
from bridge.dspy_runtime.predictor import REASONING
from bridge.dspy_runtime.signatures import defused
from bridge.dspy_runtime.streaming import Listener, value_text
from bridge.dspy_runtime.tools import AgentTool, Definition
from bridge.errors import BridgeError, Code, invalid_args
from bridge.redact import redact

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
        steps = StepListener(ctx.emit, self, tokens=tokens)
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

    async def execute(self, tool: Definition, arguments: dict[str, Any]) -> Any:
        """Run a tool and tell so. Gives what the model is to see, of a failure its description."""
        content, is_error = await self.call(tool.name, arguments)
        return f"Execution error in {tool.name}: {content}" if is_error else content

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """The same, and whether it failed. Never raises: the agent is to go on."""
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
            return defused(await self._run(call_id, tool, arguments)), False
        except Exception as error:  # noqa: BLE001 - whatever a tool raises
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


def describe(error: Exception, *, typed: bool = True) -> str:
    """A failure in words for the model: no traceback, no paths, no secrets. ``typed``: begin with its type,
    unless it was a tool that said it."""
    if isinstance(error, BridgeError):
        text = error.message
    else:
        text = first_problem(error) if isinstance(error, pydantic.ValidationError) else str(error)
        if typed:
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
    text = redact(str(defused(text)))
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


class StepListener(TokenListener):
    """The calls that choose the next tool: a step each."""

    def __init__(self, emit: Emit, agent: Agent, *, tokens: bool) -> None:
        super().__init__(emit, tokens=tokens)
        self._agent = agent
        self._thought: list[str] = []
        self._shown = False
        self._open = False

    async def started(self) -> None:
        if self._open:  # the call before failed, and is made again with less to read
            await self.restart()
            return
        self._open = True
        self._thought, self._shown = [], False
        self._agent.trajectory.append({"step": self._agent.step + 1, "thought": "", "calls": []})
        self.extra = {"step": self._agent.step}

    async def event(self, kind: Kind, field: str, text: str) -> None:
        if field != _THOUGHT:
            return
        if kind is Kind.DELTA:
            self._thought.append(text)
            self._shown = self._shown or self._tokens
            await super().event(kind, "thought", text)
        elif kind is Kind.DONE:
            await self._tell("".join(self._thought))

    async def restart(self) -> None:
        if self._shown:
            await self._emit({"type": "restart", **self.extra})
        self._thought, self._shown = [], False
        self._agent.trajectory[-1]["thought"] = ""

    async def answered(self, values: Mapping[str, Any], written: str) -> None:
        self._open = False
        calls = values.get("tool_calls")
        if not value_text(values.get(_THOUGHT)) and calls is not None:
            # Beside native tool calls models write as they like; DSPy passes over what is not in its format.
            await self._tell(written.strip())
        # What a model wrote goes into the next prompt.
        if isinstance(values, dict):
            for name in ("next_thought", "next_tool_args"):
                if isinstance(values.get(name), (str, dict)):
                    values[name] = defused(values[name])
        for call in getattr(calls, "tool_calls", ()):
            call.name, call.args = defused(call.name), defused(call.args)

    async def _tell(self, thought: str) -> None:
        if thought.strip():
            self._shown = True
            self._agent.trajectory[-1]["thought"] = thought
            await self._emit({"type": "thought", **self.extra, "content": thought})


class _ExtractListener(TokenListener):
    """The call that makes the outputs of what was found: one step more."""

    def __init__(self, emit: Emit, agent: Agent, *, tokens: bool) -> None:
        super().__init__(emit, tokens=tokens)
        self._agent = agent

    async def started(self) -> None:
        self.extra = {"step": self._agent.step + 1}


class _Finish(dspy.Tool):  # type: ignore[misc] # DSPy is untyped
    """ReAct's way to end. DSPy's own would answer needless arguments with a traceback for the model."""

    def __init__(self, own: dspy.Tool) -> None:
        super().__init__(own.func, name=own.name, desc=own.desc, args=own.args)

    async def acall(self, /, **arguments: Any) -> str:
        return "Completed."


class _NativeAgent(dspy.ReActV2):  # type: ignore[misc] # as above
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
        values, failed = [value for value, _ in answers], [is_error for _, is_error in answers]
        final = None
        for call, (value, is_error) in zip(calls, answers, strict=True):
            if call.name == FINISH["native"] and not is_error:
                final = value
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
