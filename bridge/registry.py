"""Commands by name: what a handler takes, how it runs, what it yields."""

from __future__ import annotations

import functools
import importlib
import typing
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from types import CodeType, FunctionType
from typing import Any, Final, TypeVar, overload

import msgspec

from bridge.context import Context
from bridge.errors import BridgeError, Code
from bridge.wire.codec import args_decoder
from bridge.wire.messages import CONTROLS, Chunk

F = TypeVar("F", bound=Callable[..., Any])


class RegistrationError(Exception):
    """A command that can not be registered or a module of commands that can not be loaded."""


class Kind(Enum):
    """How a handler gives its answers."""

    ASYNC_STREAM = "async generator"
    SYNC_STREAM = "generator"
    ASYNC_CALL = "async function"
    SYNC_CALL = "function"

    @property
    def threaded(self) -> bool:
        """Whether it needs a thread of its own."""
        return self in (Kind.SYNC_STREAM, Kind.SYNC_CALL)


class Command:
    """A registered handler."""

    def __init__(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        chunks: tuple[type, ...] = (),
        inline: bool = False,
        state: str | None = None,
    ) -> None:
        self.name = name
        self.handler = handler
        self.kind = _kind(handler)
        #: Answered while the line is read: for functions that take microseconds.
        self.inline = inline
        #: See :func:`command`.
        self.state = state
        self._chunks = chunks
        self._parameters = _parameters(name, handler)

    def call(self, args: Any, context: Context) -> Any:
        """Call the handler with as many of the two as it takes."""
        return self.handler(*(args, context)[: len(self._parameters)])

    @functools.cached_property
    def args_type(self) -> type:
        """What ``args`` is decoded into: a Struct, or ``dict`` for the object as it came.

        :raises RegistrationError: when the annotation is neither, or can not be resolved.
        """
        if not self._parameters:
            return _NoArgs
        annotation = self._hints.get(self._parameters[0], dict)
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            return annotation
        origin = typing.get_origin(annotation) or annotation
        if origin is Any or (isinstance(origin, type) and issubclass(dict, origin)):  # dict, Mapping, object
            return dict
        message = f"the command {self.name!r} takes args of type {annotation!r}; use a msgspec.Struct or dict"
        raise RegistrationError(message)

    @functools.cached_property
    def chunk_types(self) -> tuple[type[Chunk], ...]:
        """The typed chunks it documents: as registered, or from the return annotation."""
        if self._chunks:
            return self._chunks
        found = _flatten(self._hints.get("return"))
        return tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Chunk))

    @property
    def doc(self) -> str:
        """The handler's docstring, without indentation."""
        import inspect  # see _plain_code

        return inspect.getdoc(self.handler) or ""

    @property
    def origin(self) -> str:
        """Where it was defined, ``module.function``."""
        return f"{self.handler.__module__}.{getattr(self.handler, '__qualname__', self.handler)}"

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self.handler)
        except Exception as error:
            message = f"the annotations of the command {self.name!r} can not be resolved: {error}"
            raise RegistrationError(message) from error


class _NoArgs(msgspec.Struct, forbid_unknown_fields=True):
    """The args of a handler without parameters."""


class Registry:
    """Commands by name."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        """Register a command.

        :raises RegistrationError: for a name that is taken, empty, or a control command's.
        """
        if not command.name or len(command.name) > 128:
            raise RegistrationError(f"a command's name has 1 to 128 characters, not {len(command.name)}")
        if command.state is not None and command.kind in (Kind.ASYNC_STREAM, Kind.SYNC_STREAM):
            raise RegistrationError(f"the command {command.name!r} sets state: it must give one answer")
        if command.name in CONTROLS:
            reserved = f"{command.name!r} is a control command of the protocol"
            raise RegistrationError(f"{reserved} ({command.origin})")
        if other := self._commands.get(command.name):
            both = f"by {other.origin} and by {command.origin}"
            raise RegistrationError(f"the command {command.name!r} is registered twice: {both}")
        self._commands[command.name] = command

    def get(self, name: str) -> Command:
        """The command of that name.

        :raises BridgeError: ``unknown_command``, with names that are near it.
        """
        if command := self._commands.get(name):
            return command
        raise unknown_command(name, [*self._commands, *CONTROLS])

    def find(self, name: str) -> Command | None:
        """The command of that name, or None."""
        return self._commands.get(name)

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._commands)

    def check(self, *, sound: Collection[str] = ()) -> None:
        """Resolve every annotation now rather than at the first request, but for the commands ``sound``.

        :raises RegistrationError: see :attr:`Command.args_type`.
        """
        for command in self:
            if command.name in sound:
                continue
            try:
                args_decoder(command.args_type)
            except TypeError as error:
                message = f"the args of the command {command.name!r} can not be decoded: {error}"
                raise RegistrationError(message) from error


def unknown_command(name: str, known: list[str]) -> BridgeError:
    """The error for a name that is none of ``known``."""
    import difflib  # for mistakes only

    near = difflib.get_close_matches(name[:128], known, n=3)
    details = {"did_you_mean": near} if near else None
    shown = name if len(name) <= 128 else name[:128] + "…"
    return BridgeError(f"Unknown streaming command: {shown}", code=Code.UNKNOWN_COMMAND, details=details)


#: Where :func:`command` registers.
default = Registry()


@overload
def command(name: F) -> F: ...
@overload
def command(
    name: str | None = None,
    *,
    chunks: tuple[type, ...] = (),
    inline: bool = False,
    state: str | None = None,
    registry: Registry | None = None,
) -> Callable[[F], F]: ...
def command(
    name: str | F | None = None,
    *,
    chunks: tuple[type, ...] = (),
    inline: bool = False,
    state: str | None = None,
    registry: Registry | None = None,
) -> F | Callable[[F], F]:
    """Register the decorated handler as the streaming command ``name`` (its own name unless given).

    The handler takes ``(args)`` or ``(args, ctx)`` and is an async generator, a generator (run in a
    thread), an async function or a function (run in a thread; both give one ``result`` chunk).

    ``state``: the command sets something that later requests see, and this field of its args names what.
    In a family of workers every worker is told, and those that are forked later: of the calls with the same
    value there the args are merged, the later over the earlier.

    :raises RegistrationError: when the name is taken.
    """

    def register(handler: F) -> F:
        label = name if isinstance(name, str) else getattr(handler, "__name__", "")
        (registry or default).add(Command(label, handler, chunks=chunks, inline=inline, state=state))
        return handler

    return register if name is None or isinstance(name, str) else register(name)


def load_module(name: str) -> None:
    """Import a module whose import registers commands.

    :raises RegistrationError: saying why it could not be loaded.
    """
    try:
        importlib.import_module(name)
    except RegistrationError as error:
        raise RegistrationError(f"the commands module {name!r} can not be loaded: {error}") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RegistrationError(f"the commands module {name!r} can not be loaded: {reason}") from error


def _plain_code(handler: Callable[..., Any]) -> CodeType | None:
    """The code of a function that nothing is wrapped around; None leaves the handler to ``inspect``.

    Such a handler's flags and arguments stand in its code. Importing inspect for them would add a seventh
    to the time to ``ready``.
    """
    return handler.__code__ if isinstance(handler, FunctionType) and not handler.__dict__ else None


def _kind(handler: Callable[..., Any]) -> Kind:
    if (code := _plain_code(handler)) is not None:
        return next(kind for flag, kind in _FLAGS if code.co_flags & flag == flag)
    import inspect

    function = handler
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_STREAM
    if inspect.isgeneratorfunction(function):
        return Kind.SYNC_STREAM
    return Kind.ASYNC_CALL if inspect.iscoroutinefunction(function) else Kind.SYNC_CALL


#: The first flag of a code object that matches tells the kind (``inspect.CO_…``); generators that
#: ``types.coroutine`` made have that of generators.
_FLAGS: Final = (
    (0x0200, Kind.ASYNC_STREAM),
    (0x0020, Kind.SYNC_STREAM),
    (0x0080, Kind.ASYNC_CALL),
    (0, Kind.SYNC_CALL),
)


def _parameters(name: str, handler: Callable[..., Any]) -> list[str]:
    names = _positional(handler)
    if len(names) > 2:
        message = f"the command {name!r} takes {len(names)} parameters; it gets (args) or (args, ctx)"
        raise RegistrationError(message)
    return names


def _positional(handler: Callable[..., Any]) -> list[str]:
    """The names of the parameters that may be given by position."""
    if (code := _plain_code(handler)) is not None:
        return list(code.co_varnames[: code.co_argcount])
    import inspect

    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(handler).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in positional]


def _flatten(annotation: Any) -> Iterator[Any]:
    """The members of unions inside ``AsyncIterator[A | B]`` and the like."""
    arguments = typing.get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _flatten(argument)
