"""Types written as text."""

from __future__ import annotations

import datetime
import sys
from typing import Any, Literal

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dspy_runtime.type_text import NAMES, parse_type


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("str", str),
        (" int ", int),
        ("float", float),
        ("bool", bool),
        ("Any", Any),
        ("None", None),
        ("list", list),
        ("list[str]", list[str]),
        ("List[str]", list[str]),
        ("set[int]", set[int]),
        ("dict[str, int]", dict[str, int]),
        ("Dict[str, list[dict[str, Any]]]", dict[str, list[dict[str, Any]]]),
        ("tuple[int, str]", tuple[int, str]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("Optional[int]", int | None),
        ("int | None", int | None),
        ("int | str | None", int | str | None),
        ("Union[int, str]", int | str),
        ("Literal['x', 'y, z']", Literal["x", "y, z"]),
        ('Literal["a]", -1, True, None]', Literal["a]", -1, True, None]),
        ("list[Literal['a'] | None]", list[Literal["a"] | None]),
        ("datetime", datetime.datetime),
        ("date", datetime.date),
        ("Image", dspy.Image),
        ("dspy.Image", dspy.Image),
        ("list[dspy.Audio]", list[dspy.Audio]),
        ("File", dspy.File),
        ("dspy.History", dspy.History),
        ("Code", dspy.Code),
    ],
)
def test_reads(text: str, expected: object) -> None:
    assert parse_type(text) == expected


@pytest.mark.parametrize("text", ["Code['python']", "dspy.Code[java]", "Code['c++']"])
def test_reads_the_language_of_code(text: str) -> None:
    found = parse_type(text)
    assert issubclass(found, dspy.Code)
    assert found.language == text.split("[")[1].strip("]'\"")


@pytest.mark.parametrize(
    "text",
    [
        "os.path",
        "mymodule.Evil",
        "Evil",
        "dspy.LM",
        "dspy.Image.from_url",
        "typing.Any",
        "builtins.eval",
        "object",
        "__import__('os').system('true')",
        "eval('1')",
        "str()",
        "lambda: 1",
        "[str]",
        "{'a': int}",
        "1",
        "'str'",
        "str + int",
        "str & int",
        "list[",
        "list[]",
        "list[str, int]",
        "dict[str]",
        "tuple[()]",
        "str[int]",
        "Optional",
        "Optional[int, str]",
        "Literal",
        "Literal[x]",
        "Literal[1.5]",
        "Literal[b'a']",
        "Literal[-'a']",
        "list['Evil']",
        "Code[1]",
        "Code['a b']",
        "Code['x', 'y']",
        "",
        "int if True else str",
        "list[*a]",
        "a.b.c",
        "list[(x := int)]",
        "f'{x}'",
        "await x",
        "Image['x']",
        "\x00",
        "str\nint",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_type(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["list[" * 50 + "int" + "]" * 50, "(" * 900, "int|" * 400 + "int", "x" * 5000, "-" * 1999]
)
def test_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"deep|longer|not a type"):
        parse_type(text)


def test_imports_nothing() -> None:
    before = set(sys.modules)
    for text in ("this.s", "antigravity.x", "list[turtledemo.Evil]", "Union[this.s, int]"):
        with pytest.raises(ValueError, match="unknown type"):
            parse_type(text)
    assert set(sys.modules) == before


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z\[\], |.()'0-9-]{0,60}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_type(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right


def test_names_the_types_there_are() -> None:
    with pytest.raises(ValueError, match="unknown type 'strng'") as caught:
        parse_type("strng")
    assert all(name in str(caught.value) for name in NAMES)
