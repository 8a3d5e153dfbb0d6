"""Host tools: what the model is told of a function, and what comes back."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest

from bridge.client import Client, Observation, Tool, ToolCall
from bridge.client.tools import ToolFailed, Tools, by_name
from tests.client.running import KIT, ROOT, SCRIPTED, run


class Place(msgspec.Struct):
    name: str
    at: tuple[float, float] | None = None


@dataclass
class Person:
    name: str


def find(city: str, limit: int = 3, kind: Literal["a", "b"] = "a", where: Place | None = None) -> Any:
    """Finds things.

    In a city."""
    return [city, limit, kind, type(where).__name__]


def test_a_function_is_told_by_its_annotations() -> None:
    declared = Tool(find).declaration()
    assert declared["name"] == "find"
    assert declared["desc"] == "Finds things.\n\nIn a city."
    assert declared["required"] == ["city"]
    assert declared["args"]["city"] == {"type": "string"}
    assert declared["args"]["limit"] == {"type": "integer"}
    assert declared["args"]["kind"] == {"enum": ["a", "b"]}
    assert "$defs" in declared["args"]["where"]


def test_everything_can_be_said_otherwise() -> None:
    tool = Tool(
        lambda x: x, name="f", description="", args={"x": {"type": "string"}, "y": {}}, required=["x"]
    )
    assert tool.declaration() == {
        "name": "f", "desc": "", "args": {"x": {"type": "string"}, "y": {}}, "required": ["x"]
    }  # fmt: skip
    assert Tool(lambda **kwargs: 1, name="g").args == {}
    assert Tool(lambda x: x, name="g").args == {"x": {}}
    assert Tool(find, required=[]).required == []


def test_functions_that_no_model_can_call() -> None:
    def by_position(x: int, /) -> int:
        return x

    def odd(x: threading.Thread) -> None:
        pass

    with pytest.raises(TypeError, match="by position"):
        Tool(by_position)
    with pytest.raises(TypeError, match="the argument 'x' of the tool 'odd'"):
        Tool(odd)
    with pytest.raises(ValueError, match="two tools are named 'find'"):
        by_name([find, Tool(find)])
    named: dict[str, Callable[..., Any] | Tool] = {"a": find, "b": Tool(find)}
    assert list(by_name(named)) == ["a", "b"]
    assert by_name({"a": find})["a"].name == "a"


def test_arguments_become_what_is_annotated() -> None:
    async def greet(person: Person) -> str:
        return person.name

    def fails_oddly() -> None:
        raise SystemExit(3)

    async def main() -> None:
        assert await Tool(find).run({"city": "Rome", "limit": "7", "where": {"name": "x"}}) == [
            "Rome", 7, "a", "Place"
        ]  # fmt: skip
        assert await Tool(greet).run({"person": {"name": "Ada"}}) == "Ada"
        assert await Tool(functools.partial(greet), name="p").run({"person": {"name": "Bo"}}) == "Bo"
        for tool, args, words in (
            (Tool(greet), {"person": {}}, "do not fit"),
            (Tool(greet), {}, "TypeError: .*missing 1 required positional argument"),
            (Tool(find), {"city": "x", "more": 1}, "TypeError: .*unexpected keyword"),
            (Tool(fails_oddly), {}, "SystemExit: 3"),
        ):
            with pytest.raises(ToolFailed, match=words):
                await tool.run(args)

    run(main())


def population(country: str) -> int:
    """Inhabitants of a country."""
    return {"France": 68_000_000, "Spain": 49_000_000}[country]


async def population_later(country: str) -> int:
    """Inhabitants of a country."""
    await asyncio.sleep(0.01)
    return population(country)


@pytest.mark.parametrize(
    "tools", [[population], {"population": population_later}, [Tool(population_later, name="population")]]
)
def test_an_agent_uses_the_hosts_functions(tools: Tools) -> None:
    async def main() -> None:
        async with Client(*SCRIPTED) as client:
            args = {"question": "Do more people live in France or in Spain?"}
            chunks = [chunk async for chunk in client.stream("stream_react_steps", args, tools=tools)]
        calls = [chunk for chunk in chunks if isinstance(chunk, ToolCall)]
        assert [(call.name, call.args, call.host) for call in calls] == [
            ("population", {"country": "France"}, True),
            ("population", {"country": "Spain"}, True),
        ]
        assert [chunk.content for chunk in chunks if isinstance(chunk, Observation)] == [
            68_000_000,
            49_000_000,
        ]
        assert chunks[-1].answer == "In France."

    run(main())


@pytest.mark.parametrize("given", [object(), {1, object()}, "\ud800", b"\xff"])
def test_what_is_no_json_is_told_to_the_model(given: object) -> None:
    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            work = client.call("kit.tool", {"name": "t"}, tools=[Tool(lambda: given, name="t")])
            if isinstance(given, bytes):
                assert (await work)["value"] == "/w=="
            else:
                result = await work
                assert result["code"] == "tool_error"
                assert "can not be sent as JSON" in result["error"]

    run(main())


def test_what_fails_is_told_and_stays_here() -> None:
    def broken() -> None:
        raise KeyError(0)

    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            result = await client.call("kit.tool", {"name": "t"}, tools={"t": broken})
            assert "KeyError: 0" in result["error"]
            result = await client.call("kit.tool", {"name": "t"}, tools={"other": broken})
            assert "The host has no tool named 't'." in result["error"]

    run(main())


def test_tools_end_with_their_request() -> None:
    ended = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    async def main() -> None:
        async with Client(*KIT, cwd=ROOT) as client:
            async for _ in client.stream("kit.tool", {"name": "t"}, tools={"t": hangs}):
                await asyncio.sleep(0)
                break
            await asyncio.sleep(0)
            assert ended == [1]
            hung = client.call("kit.tool", {"name": "t", "timeout_s": 0.05}, tools={"t": hangs})
            assert (await hung)["code"] == "tool_timeout"
            await asyncio.sleep(0)
            assert ended == [1, 1]

    run(main())


def test_a_tool_runs_before_its_chunk_is_taken() -> None:
    async def main() -> None:
        called = asyncio.Event()

        async def noted() -> None:
            called.set()

        async with Client(*KIT, cwd=ROOT) as client:
            stream = client.stream("kit.tool", {"name": "t"}, tools={"t": noted})
            assert (await anext(stream)).type == "tool_call"
            await called.wait()
            assert [chunk.type async for chunk in stream] == ["result"]

    run(main())
