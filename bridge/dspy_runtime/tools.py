"""Tools as an agent sees them, wherever they run, and their arguments held against JSON Schema."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, get_type_hints

import dspy
import jsonschema
import msgspec
import pydantic
from referencing import Registry

from bridge import tool_threads
from bridge.dspy_runtime.errors import first_problem
from bridge.dspy_runtime.specs import ToolSpec
from bridge.dspy_runtime.tool_schema import expand, nullable, without_patterns
from bridge.errors import BridgeError, Code, invalid_args

#: What OpenAI's and Anthropic's APIs take for a name.
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Declarations that are kept, as hosts send the same ones again and again, and how long each may be.
MAX_CACHED: Final = 1024
MAX_CACHED_BYTES: Final = 16 * 1024

# What DSPy's engine makes of a native call's arguments that are no JSON, or no object.
_NO_OBJECT: Final = ({"partial_json"}, {"value"})

#: Runs a tool with arguments that were checked.
Runner = Callable[[dict[str, Any]], Awaitable[Any]]


class Definition:
    """A tool: what a model is told of it, and how it is run (``run`` None: by the host).

    ``args`` are JSON Schemas by argument, ``required`` the arguments that must be there, ``open`` whether
    others may be. A ``pattern`` is told to the model and not held against its answers: one that a model
    meets with the right text could keep the worker busy for ever.

    Raises:
        ValueError: ``args`` are no JSON Schemas.
    """

    def __init__(
        self,
        name: str,
        desc: str,
        args: Mapping[str, Any],
        required: tuple[str, ...],
        run: Runner | None = None,
        *,
        open: bool = False,
    ) -> None:
        self.name = name
        self.desc = desc
        self.args = {each: nullable(schema) for each, schema in args.items()}
        self.required = required
        self.run = run
        if missing := [each for each in required if each not in self.args]:
            raise ValueError(f"the required argument {missing[0]!r} is not among the args")
        schema = {"type": "object", "properties": self.args, "required": [*required]}
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            where = ".".join(str(part) for part in error.absolute_path)
            raise ValueError(f"{where}: {error.message[:300]}") from None
        # An empty registry: what a $ref names elsewhere is never fetched.
        checked = schema | {"properties": without_patterns(self.args)}
        self._validator = jsonschema.Draft202012Validator(checked, registry=Registry())
        self._open = open

    def problem(self, arguments: dict[str, Any]) -> str | None:
        """What is wrong with a call's arguments, for the model that made it; None if nothing is."""
        if arguments.keys() in _NO_OBJECT and not arguments.keys() <= self.args.keys():
            return "The arguments are not a JSON object."
        for name in arguments:
            if name not in self.args and not self._open:
                known = f"There are: {', '.join(self.args)}." if self.args else "It takes none."
                return f"Unknown argument {name[:100]!r}. {known}"
        for name in self.required:
            if name not in arguments:
                return f"The argument {name!r} is missing."
        try:
            error = jsonschema.exceptions.best_match(self._validator.iter_errors(arguments))
        except Exception as failure:  # noqa: BLE001 - a $ref that leads nowhere, a pattern that is none
            return f"The arguments could not be checked: {type(failure).__name__}."
        if error is None:
            return None
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        return f"The argument {path.lstrip('.')!r} does not fit: {error.message[:300]}"


class AgentTool(dspy.Tool):  # type: ignore[misc] # DSPy is untyped
    """A definition as DSPy's agents call it. ``execute`` gives what the model is to see, and never raises."""

    def __init__(
        self, definition: Definition, execute: Callable[[Definition, dict[str, Any]], Awaitable[Any]]
    ) -> None:
        async def call(**arguments: Any) -> Any:
            return await execute(definition, arguments)

        super().__init__(
            call,
            name=definition.name,
            desc=definition.desc,
            args=definition.args,
            arg_types=dict.fromkeys(definition.args, Any),
        )
        self._definition = definition

    async def acall(self, /, **arguments: Any) -> Any:
        """Run the tool. DSPy's own would check arguments and tell tracebacks."""
        return await self.func(**arguments)

    def format_as_litellm_function_call(self) -> dict[str, Any]:
        """As OpenAI's API takes it, with the arguments that are really required."""
        function: dict[str, Any] = super().format_as_litellm_function_call()
        function["function"]["parameters"]["required"] = [*self._definition.required]
        return function

    def __str__(self) -> str:
        text = str(super().__str__())
        optional = [name for name in self._definition.args if name not in self._definition.required]
        return f"{text} Optional are: {', '.join(optional)}." if optional else text


@functools.lru_cache(maxsize=MAX_CACHED)
def _declared(encoded: bytes) -> Definition:
    spec = msgspec.json.decode(encoded, type=ToolSpec)
    required = spec.required
    if required is None:
        required = [name for name, schema in spec.args.items() if "default" not in schema]
    # A reference is into the argument's own schema, or into that of all arguments.
    args = {
        name: expand(schema, {"properties": spec.args, **schema}, strict=True)
        for name, schema in spec.args.items()
    }
    return Definition(spec.name, spec.desc, args, tuple(required))


def declared(spec: ToolSpec, path: str) -> Definition:
    """The tool that a host declared at ``path`` of its request, and runs itself.

    Raises:
        BridgeError: ``invalid_args``.
    """
    if not NAME.fullmatch(spec.name):
        raise invalid_args(
            f"{spec.name[:100]!r} can not be a tool's name: up to 64 letters, digits, _ and - are needed.",
            f"{path}.name",
        )
    encoded = msgspec.json.encode(spec)
    try:
        return (_declared if len(encoded) < MAX_CACHED_BYTES else _declared.__wrapped__)(encoded)
    except (ValueError, RecursionError) as error:
        raise invalid_args(f"The tool {spec.name!r}: {error}.", f"{path}.args") from None


def from_function(name: str, function: Callable[..., Any]) -> Definition:
    """The tool that a Python function is. One that is not async runs in a thread.

    Raises:
        BridgeError: its annotations can not be told to a model.
    """
    try:
        tool = dspy.Tool(function, name=name)  # for what it makes of docstrings and defaults
        parameters = inspect.signature(function).parameters.values()
        variable = {each.name for each in parameters if each.kind is each.VAR_KEYWORD}
        # DSPy leaves the constraints of Annotated out.
        hints = get_type_hints(function, include_extras=True)
        kinds = {
            each.name: pydantic.TypeAdapter(hints.get(each.name, Any))
            for each in parameters
            if each.name not in variable
        }
        args = {each: _schema(kind, tool.args[each]) for each, kind in kinds.items()}
        required = tuple(each for each, schema in args.items() if "default" not in schema)
        run = functools.partial(_run_function, function, kinds)
        return Definition(name, tool.desc or "", args, required, run, open=bool(variable))
    except Exception as error:
        raise BridgeError(
            f"The tool {name!r} can not be used: {type(error).__name__}: {error}", code=Code.TOOL_ERROR
        ) from error


async def _run_function(
    function: Callable[..., Any], kinds: Mapping[str, pydantic.TypeAdapter[Any]], arguments: dict[str, Any]
) -> Any:
    converted = {name: _converted(name, value, kinds.get(name)) for name, value in arguments.items()}
    # What the tool asks of language models is its own business, and no part of the agent's stream.
    with dspy.context(send_stream=None, stream_listeners=[]):
        if inspect.iscoroutinefunction(function):
            return await function(**converted)
        value = await tool_threads.run(function, converted)
        # A decorated coroutine function may look like any other.
        return await value if inspect.isawaitable(value) else value


def _schema(kind: pydantic.TypeAdapter[Any], known: dict[str, Any]) -> dict[str, Any]:
    schema = kind.json_schema()
    expanded: dict[str, Any] = expand(schema, schema)
    return expanded | {key: known[key] for key in ("default", "description") if key in known}


def _converted(name: str, value: Any, kind: pydantic.TypeAdapter[Any] | None) -> Any:
    if kind is None:
        return value
    try:
        return kind.validate_python(value)
    except pydantic.ValidationError as error:
        problem = f"The argument {name!r} does not fit: {first_problem(error)}"
    raise BridgeError(problem, code=Code.TOOL_ERROR)
