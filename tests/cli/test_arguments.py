"""From words on a command line to args."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli.arguments import parse_args
from bridge.cli.usage import Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json_value_arrives_as_it_is(value: object) -> None:
    assert parse_args([f"key={json.dumps(value)}"]) == {"key": value}


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_a_json_object_is_the_args(value: dict[str, object]) -> None:
    assert parse_args([json.dumps(value)]) == value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("text=hello world", "hello world"),
        ("text=a=b", "a=b"),
        ("text=", ""),
        ("text=text -> completion", "text -> completion"),
        ("n=3", 3),
        ('n="3"', "3"),
        ("n=NaN", "NaN"),
        ("n=-1", -1),
        ("flag=true", True),
        ("nothing=null", None),
        ("big=123456789012345678901234567890", 123456789012345678901234567890),
        ('tags=["a"]', ["a"]),
        ("broken=[1", "[1"),
        ("at=@", "@"),
    ],
)
def test_values(word: str, value: object) -> None:
    assert list(parse_args([word]).values()) == [value]


def test_words_add_up() -> None:
    assert parse_args(['{"a": 1}', "b=2", "c=x"]) == {"a": 1, "b": 2, "c": "x"}


def test_files(tmp_path: Path) -> None:
    lines = tmp_path / "items.jsonl"
    lines.write_text('\ufeff{"text": "a\u2028b"}\r\n\n{"text": "c"}\n', encoding="utf-8")
    whole = tmp_path / "args.json"
    whole.write_text('{"n":\n 1}')
    assert parse_args([f"items=@{lines}"]) == {"items": [{"text": "a\u2028b"}, {"text": "c"}]}
    assert parse_args([f"x=@{whole}"]) == {"x": {"n": 1}}
    assert parse_args([f"@{whole}", "m=2"]) == {"n": 1, "m": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": 1}', {"a": 1}), ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]), ("[\n  1\n]", [1])],
)
def test_stdin(text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert parse_args(["items=-"]) == {"items": value}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["hello"], "neither key=value"),
        (["=1"], "neither key=value"),
        (["9x=1"], "neither key=value"),
        (["a=1", "a=2"], "given twice"),
        (['{"a": }'], "line 1, column 7"),
        (["{'a': 1}"], "no JSON"),
        (['{"a": NaN}'], "NaN"),
        (["a=@/nowhere/at/all.json"], "No such file"),
        (["@."], "directory"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], complaint: str) -> None:
    with pytest.raises(Usage, match=complaint):
        parse_args(words)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(Usage, match=r"line 2 of .*items\.jsonl"):
        parse_args([f"items=@{file}"])
    binary = tmp_path / "items.json"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(Usage, match="not UTF-8"):
        parse_args([f"items=@{binary}"])
    file.write_text('{"a": 1}\n')
    with pytest.raises(Usage, match=r"items=@file\.jsonl"):
        parse_args([f"@{file}"])
