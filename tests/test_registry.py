"""Registering commands: kinds, args, names, and what goes wrong in words."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec
import pytest

from bridge import BridgeError, Chunk, Code, FinalChunk, command
from bridge.commands import MODULES
from bridge.registry import Command, Kind, RegistrationError, Registry, default, load_module


async def stream(args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A stream."""
    yield args


def sync_stream(args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield args


async def call(args: dict[str, Any], ctx: Any) -> dict[str, Any]:
    return args


def sync_call() -> int:
    return 1


class Callable_:
    async def __call__(self, args: dict[str, Any]) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (stream, Kind.ASYNC_STREAM),
        (sync_stream, Kind.SYNC_STREAM),
        (call, Kind.ASYNC_CALL),
        (sync_call, Kind.SYNC_CALL),
        (Callable_(), Kind.ASYNC_STREAM),
        (functools.partial(call, ctx=None), Kind.ASYNC_CALL),
        (lambda args: args, Kind.SYNC_CALL),
    ],
)
def test_the_kind_of_a_handler_is_seen(handler: Any, kind: Kind) -> None:
    assert Command("x", handler).kind is kind
    assert kind.threaded == (kind in (Kind.SYNC_STREAM, Kind.SYNC_CALL))


class Args(msgspec.Struct):
    n: int


def typed(args: Args) -> int:
    return args.n


def mapped(args: Mapping[str, Any]) -> None: ...


def bare(args: Any) -> None: ...


def plain(args) -> None:  # type: ignore[no-untyped-def]  # a user's untyped handler is the case
    ...


def wrong(args: list[int]) -> None: ...


def unresolved(args: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the case itself


def test_args_are_decoded_into_the_annotated_struct_or_come_as_they_are() -> None:
    assert Command("x", typed).args_type is Args
    for handler in (stream, mapped, bare, plain):
        assert Command("x", handler).args_type is dict


@pytest.mark.parametrize(("handler", "said"), [(wrong, "list"), (unresolved, "NoSuchName")])
def test_annotations_that_can_not_be_are_a_start_up_error(handler: Any, said: str) -> None:
    registry = Registry()
    registry.add(Command("bad", handler))
    with pytest.raises(RegistrationError, match=said):
        registry.check()


def test_a_handler_takes_at_most_args_and_context() -> None:
    def greedy(args: Any, ctx: Any, more: Any) -> None: ...

    with pytest.raises(RegistrationError, match="3 parameters"):
        Command("x", greedy)


def test_a_name_registered_twice_names_both_origins() -> None:
    registry = Registry()
    registry.add(Command("x", typed))
    with pytest.raises(RegistrationError, match=r"registered twice.*typed.*mapped"):
        registry.add(Command("x", mapped))


@pytest.mark.parametrize("name", ["", "x" * 129, "cancel", "credit", "shutdown", "tool_result"])
def test_names_that_can_not_be_are_refused(name: str) -> None:
    with pytest.raises(RegistrationError):
        Registry().add(Command(name, typed))


def test_an_unknown_name_is_told_with_near_ones() -> None:
    registry = Registry()
    registry.add(Command("stream_predict", typed))
    with pytest.raises(BridgeError) as caught:
        registry.get("stream_predct")
    assert caught.value.code == Code.UNKNOWN_COMMAND
    assert caught.value.details == {"did_you_mean": ["stream_predict"]}
    with pytest.raises(BridgeError) as caught:
        registry.get("z" * 5000)
    assert len(caught.value.message) < 300


class Row(Chunk):
    n: int


class End(FinalChunk):
    ok: bool


async def documented(args: Args) -> AsyncIterator[Row | End]:
    """Yields rows."""
    yield End(ok=True)


def test_chunk_types_come_from_the_annotation_or_the_decorator() -> None:
    assert Command("x", documented).chunk_types == (Row, End)
    assert Command("x", documented, chunks=(End,)).chunk_types == (End,)
    assert Command("x", documented).doc == "Yields rows."


def test_the_decorator_takes_a_name_or_none_and_gives_the_handler_back() -> None:
    registry = Registry()
    assert command("named", registry=registry)(typed) is typed
    assert command(registry=registry)(mapped) is mapped
    assert registry.names() == ["named", "mapped"]


def test_a_module_that_can_not_be_loaded_is_named_with_the_reason() -> None:
    with pytest.raises(
        RegistrationError, match=r"tests\.support\.broken_commands.*ValueError: broken on purpose"
    ):
        load_module("tests.support.broken_commands")
    with pytest.raises(RegistrationError, match="no_such_module_anywhere"):
        load_module("no_such_module_anywhere")


async def keywords(args: Any, /, ctx: Any = None, *, flag: bool = False, **rest: Any) -> None:
    """Parameters of all kinds."""


@types.coroutine
def old_coroutine(args: Any, *more: Any) -> Iterator[Any]:
    yield args


@pytest.mark.parametrize("handler", [stream, sync_stream, call, sync_call, keywords, old_coroutine])
def test_what_a_plain_functions_code_tells_is_what_inspect_tells(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Command("x", handler)
    monkeypatch.setattr(handler, "of_a_decorator", True, raising=False)
    inspected = Command("x", handler)
    assert (plain.kind, plain._parameters) == (inspected.kind, inspected._parameters)
    parameters = inspect.signature(handler).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert plain._parameters == [each.name for each in parameters if each.kind in positional]


def test_the_built_in_commands_are_sound() -> None:
    """Their annotations are not looked at when a worker starts."""
    for name in MODULES:
        load_module(name)
    default.check()
    assert {"ping", "stream_predict_batch"} < set(default.names())
