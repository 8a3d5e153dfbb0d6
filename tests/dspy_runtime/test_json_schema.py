"""JSON Schema to annotations."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from bridge.dspy_runtime.json_schema import annotation, looks_like_schema, to_plain

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "description": "the full name"},
        "age": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["a", "b", None]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "address": {"$ref": "#/$defs/Address"},
        "maybe": {"type": ["number", "null"]},
        "nick": {"type": "string", "nullable": True},
        "level": {"type": "integer", "default": 3},
        "either": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        "free": {},
        "by-name": {"type": "object", "additionalProperties": {"type": "integer"}},
        "class": {"const": "x"},
        "copy": {"type": "string"},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]},
    },
    "required": ["name", "age", "address", "class"],
    "additionalProperties": False,
    "$defs": {
        "Address": {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
    },
}


def check(schema: Any, value: Any) -> Any:
    adapter = pydantic.TypeAdapter(annotation(schema, "person"))
    return adapter.dump_python(adapter.validate_python(value), mode="json", exclude_unset=True)


def test_an_object_of_everything() -> None:
    value = {
        "name": "Ann",
        "age": 3,
        "kind": None,
        "tags": ["x"],
        "address": {"street": "s"},
        "maybe": None,
        "nick": None,
        "either": True,
        "free": {"any": [1]},
        "by-name": {"k": 1},
        "class": "x",
        "copy": "c",
        "pair": ["a", 1],
    }
    assert check(PERSON, value) == value


def test_what_is_not_required_can_be_left_out() -> None:
    adapter = pydantic.TypeAdapter(annotation(PERSON, "person"))
    made = adapter.validate_python({"name": "A", "age": 1, "address": {"street": "s"}, "class": "x"})
    assert made.level == 3
    assert made.tags is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": 5},
        {"age": -1},
        {"kind": "c"},
        {"tags": ["a", "b", "c"]},
        {"address": {}},
        {"either": "x"},
        {"by-name": {"k": "x"}},
        {"class": "y"},
        {"more": 1},
        {"pair": ["a"]},
    ],
)
def test_what_does_not_fit(change: dict[str, Any]) -> None:
    good = {"name": "A", "age": 1, "address": {"street": "s"}, "class": "x"}
    with pytest.raises(pydantic.ValidationError):
        check(PERSON, good | change)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("string", "object"),
        ({"type": "strng"}, "unknown JSON Schema type"),
        ({"type": "string", "pattern": "x"}, "keyword 'pattern'"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"$ref": "#/$defs/Gone"}, "leads nowhere"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "leads nowhere"),
        ({"$ref": "file:///etc/passwd"}, "leads nowhere"),
        ({"$ref": 5}, "leads nowhere"),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}},
            "back to itself",
        ),
        ({"anyOf": []}, "anyOf"),
        ({"allOf": [{}, {}]}, "allOf"),
        ({"enum": []}, "enum"),
        ({"enum": [[1]]}, "enum"),
        ({"enum": "ab"}, "enum"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "required"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "object", "properties": {str(i): {} for i in range(300)}}, "properties"),
        ({"type": "integer", "minimum": "0"}, "minimum"),
        ({"$defs": []}, r"\$defs"),
        ({"title": "x"}, "needs a type"),
        ({"type": "object", "required": ["a"]}, "required"),
        ({"type": "object", "properties": {"a": {}}, "required": [["a"]]}, "required"),
        ({"type": "string", "enum": ["a", 1]}, "not of the type"),
        ({"enum": [1, 2], "minimum": 2}, "'minimum' is not supported beside enum"),
        ({"anyOf": [{"type": "object"}], "properties": {}}, "'properties' is not supported beside anyOf"),
        ({"type": "integer", "minLength": 2}, "'minLength' is not supported beside the type integer"),
        ({"type": "string", "format": "hostname"}, "format 'hostname'"),
        ({"type": "array", "items": {"type": "integer", "default": 1}}, "default"),
        ({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}, "default 'x'"),
        ({"type": "string", "nullable": "yes"}, "nullable"),
        ({"type": "array", "prefixItems": [{}], "items": {"type": "string"}}, "exactly"),
        ({"type": "array", "minItems": -1}, "minItems"),
    ],
)
def test_refuses(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annotation(schema, "x")


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
            {"a": "x", "b": 1},
            {"a": "x", "b": "y"},
        ),
        ({"type": "object", "additionalProperties": False}, {}, {"a": 1}),
        ({"type": ["string", "null"], "minLength": 2}, None, "a"),
        ({"type": "string", "enum": ["a", None], "nullable": True}, None, "b"),
        ({"type": "string", "format": "date-time"}, "2024-01-01T00:00:00Z", "2024-01-01"),
        ({"type": "string", "format": "uuid"}, "12345678-1234-5678-1234-567812345678", "x"),
        ({"type": "string", "format": "uri"}, "https://a.b/c", "a b"),
        ({"type": "string", "format": "time"}, "00:00:00", "25:00:00"),
        ({"type": "integer", "format": "int32"}, 5, 2**31),
        ({"type": "integer", "exclusiveMinimum": 4.5}, 5, 4),
        ({"type": "array", "prefixItems": [{"type": "string"}], "minItems": 1, "maxItems": 1}, ["a"], []),
    ],
)
def test_what_is_enforced(schema: Any, good: Any, bad: Any) -> None:
    assert check(schema, good) == good
    with pytest.raises(pydantic.ValidationError):
        check(schema, bad)


def test_depth_is_bounded() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="nested"):
        annotation(schema, "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "string"}, True),
        ({"type": ["string", "null"]}, True),
        ({"enum": ["a"]}, True),
        ({"$ref": "#/$defs/A"}, True),
        ({"type": "str"}, False),
        ({"type": "list[str]", "desc": "x"}, False),
        ({"desc": "x"}, False),
        ({"type": {"type": "string"}, "desc": "x"}, False),
    ],
)
def test_telling_schemas_from_descriptions(value: dict[str, Any], expected: bool) -> None:
    assert looks_like_schema(value) is expected


def test_models_become_objects_with_the_schemas_names() -> None:
    made = pydantic.TypeAdapter(
        annotation({"type": "array", "items": PERSON, "$defs": PERSON["$defs"]}, "people")
    ).validate_python(
        [{"name": "A", "age": 1, "address": {"street": "s"}, "class": "x", "by-name": {"k": 1}, "nick": None}]
    )
    assert to_plain({"people": made, "pair": (1, {2})}) == {
        "people": [
            {
                "name": "A",
                "age": 1,
                "address": {"street": "s"},
                "class": "x",
                "by-name": {"k": 1},
                "nick": None,
                "level": 3,
            }
        ],
        "pair": [1, [2]],
    }
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True}
    assert to_plain(pydantic.TypeAdapter(annotation(schema, "x")).validate_python({"b-c": 1})) == {"b-c": 1}
