"""Tools that the operator allowed with ``--tools``: the public functions of Python modules. No DSPy here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from bridge.options import ServeOptions
from bridge.registry import RegistrationError

#: Between an MCP server's name and its tool's.
SEPARATOR: Final = "__"


def tool_functions(modules: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """The functions of ``modules`` by name: those listed in ``__all__``, or those that a module defines
    itself and whose names do not begin with an underscore.

    :raises RegistrationError: a module can not be loaded or has no such function, a name is there twice, or
        a parameter has no name that a model could use.
    """
    found: dict[str, Callable[..., Any]] = {}
    for module in modules:
        own = _functions(module)
        if not own:
            raise RegistrationError(f"the tools module {module!r} has no public functions")
        for name, function in own.items():
            if name in found:
                raise RegistrationError(f"the tool {name!r} of {module!r} is there already")
            found[name] = function
    return found


def tool_names(options: ServeOptions) -> list[str]:
    """The tools that a worker with ``options`` offers: functions, and all of an MCP server's as a pattern."""
    return [*tool_functions(options.tools), *(f"{name}{SEPARATOR}*" for name, _ in options.mcp)]


def _functions(name: str) -> dict[str, Callable[..., Any]]:
    import inspect  # only where there are such modules

    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RegistrationError(f"the tools module {name!r} can not be loaded: {reason}") from error
    listed = getattr(module, "__all__", None)
    if listed is not None:
        chosen = {str(each): getattr(module, str(each), None) for each in listed}
    else:
        chosen = {
            each: value
            for each, value in vars(module).items()
            if not each.startswith("_") and getattr(value, "__module__", None) == module.__name__
        }
    functions: dict[str, Callable[..., Any]] = {
        each: value for each, value in chosen.items() if inspect.isfunction(value)
    }
    for each, function in functions.items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise RegistrationError(
                    f"the tool {each!r} of {name!r} takes {parameter.name!r} by position; "
                    "models give arguments by name"
                )
    return functions
