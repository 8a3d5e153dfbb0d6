"""Tools that a host lends to an agent: plain functions, told to the model by their annotations."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from bridge import tool_threads

#: Longest text, in characters, of a failure that is told to the model.
MAX_ERROR_CHARS = 2000


class ToolFailed(Exception):
    """A tool gave no value; the text is what the model is told."""


class Tool:
    """A function that the model may call, sync or async.

    A sync one runs in a thread of its own. Arguments are converted to the annotated types (dataclasses and
    Structs included). ``name``, ``description`` and ``args`` (JSON Schemas by argument) default to the
    function's name, its docstring and its annotations; ``required`` to the arguments without a default.

    Raises:
        TypeError: the function does not tell its parameters, or one is positional-only or of a type that
            can not be told in JSON Schema.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        args: Mapping[str, Any] | None = None,
        required: Iterable[str] | None = None,
    ) -> None:
        self.function = function
        inner = function.func if isinstance(function, functools.partial) else function
        self.name: str = name or str(getattr(inner, "__name__", type(inner).__name__))
        self.description = inspect.cleandoc(inner.__doc__ or "") if description is None else description
        self._types: dict[str, Any] = {}
        if args is not None:
            self.args = dict(args)
            self.required = list(self.args if required is None else required)
        else:
            self.args, found = self._from_annotations()
            self.required = found if required is None else list(required)

    def declaration(self) -> dict[str, Any]:
        """The tool as ``stream_react_steps`` takes it in ``tools``."""
        return {"name": self.name, "desc": self.description, "args": self.args, "required": self.required}

    def named(self, name: str) -> Tool:
        """The same tool under another name."""
        tool = copy.copy(self)
        tool.name = name
        return tool

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        """What the function gives for a model's ``arguments``.

        Raises:
            ToolFailed: it raised, whatever that was, or the arguments are not of its types.
        """
        try:
            converted = {name: self._convert(name, value) for name, value in arguments.items()}
        except msgspec.ValidationError as error:
            raise ToolFailed(f"The arguments do not fit: {error}") from None
        try:
            if inspect.iscoroutinefunction(self.function):
                return await self.function(**converted)
            value = await tool_threads.run(self.function, converted)
            return await value if inspect.isawaitable(value) else value
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            raise ToolFailed(f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]) from error

    def _convert(self, name: str, value: Any) -> Any:
        return msgspec.convert(value, self._types[name], strict=False) if name in self._types else value

    def _from_annotations(self) -> tuple[dict[str, Any], list[str]]:
        args: dict[str, Any] = {}
        required = []
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        for name, parameter in self._parameters().items():
            if name in bound or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"the tool {self.name!r} takes {name!r} by position only; models give names")
            args[name] = self._schema(name, parameter.annotation)
            if parameter.default is parameter.empty:
                required.append(name)
        return args, required

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.function, eval_str=True).parameters
        except (ValueError, NameError) as error:
            raise TypeError(
                f"the tool {self.name!r} does not tell its arguments, give args: {error}"
            ) from None

    def _schema(self, name: str, annotation: Any) -> dict[str, Any]:
        if annotation in (inspect.Parameter.empty, Any):
            return {}
        try:
            schema = msgspec.json.schema(annotation)
        except TypeError as error:
            raise TypeError(f"the argument {name!r} of the tool {self.name!r}: {error}") from None
        self._types[name] = annotation
        return schema


#: What a request takes as ``tools``: functions, or functions by the name the model is told.
Tools = Iterable[Callable[..., Any] | Tool] | Mapping[str, Callable[..., Any] | Tool]


def by_name(tools: Tools) -> dict[str, Tool]:
    """``tools`` as a request needs them.

    Raises:
        ValueError: two have the same name.
        TypeError: as :class:`Tool`.
    """
    if isinstance(tools, Mapping):
        return {
            name: each.named(name) if isinstance(each, Tool) else Tool(each, name=name)
            for name, each in tools.items()
        }
    found: dict[str, Tool] = {}
    for each in tools:
        tool = each if isinstance(each, Tool) else Tool(each)
        if tool.name in found:
            raise ValueError(f"two tools are named {tool.name!r}")
        found[tool.name] = tool
    return found
