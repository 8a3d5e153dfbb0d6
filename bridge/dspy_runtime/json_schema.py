"""JSON Schema to annotations: objects become pydantic models.

Covered: ``type`` (also a list of types), ``properties``, ``required``, ``additionalProperties``, ``items``,
``prefixItems`` (a tuple of exactly these), ``enum``, ``const``, ``anyOf``/``oneOf``, ``allOf`` of one,
``nullable``, ``$ref`` into ``$defs`` or ``definitions``, ``default`` (of properties and input fields),
``title``, ``description``, the common ``format``s, and the bounds of numbers, strings and arrays. Other
keywords, and these where they would not be enforced, are refused.
"""

from __future__ import annotations

import json
import keyword
import types
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

import dspy
import pydantic
from dspy.adapters.utils import get_annotation_name

from bridge.dspy_runtime.json_keywords import (
    BOUNDS,
    COMBINATIONS,
    OF_TYPE,
    SHAPE,
    bounded,
    check_enum,
    check_together,
    of_type,
)

MAX_DEPTH = 16
MAX_PROPERTIES = 256
TYPE_NAMES = ("string", "integer", "number", "boolean", "array", "object", "null")

_SCALARS: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
_REMARKS = {
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "desc",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
}
KEYWORDS = frozenset(SHAPE | _REMARKS)
# Marks what may be left out but not be null. Models write null for it all the same.
_ABSENT = "absent rather than null"
# What tells a JSON Schema from {"desc": …}.
_TELLING = SHAPE - set(BOUNDS) - {"format"} | {"$defs"}


class SchemaModel(pydantic.BaseModel):
    """Base of the models made here. Their fields' aliases are the schema's own property names."""

    model_config = pydantic.ConfigDict(
        populate_by_name=True, serialize_by_alias=True, protected_namespaces=()
    )


def to_plain(value: Any) -> Any:
    """``value`` with every model made here as an object of the schema's properties, absent ones left out, and
    reasoning as its text."""
    if isinstance(value, SchemaModel):
        kept = {
            field.alias or name: to_plain(item)
            for name, field in type(value).model_fields.items()
            if (item := getattr(value, name)) is not None
            or (name in value.model_fields_set and _ABSENT not in field.metadata)
        }
        return kept | {name: to_plain(item) for name, item in (value.model_extra or {}).items()}
    if isinstance(value, dspy.Reasoning):
        return value.content
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_plain(item) for item in value]
    return value


def looks_like_schema(value: dict[str, Any]) -> bool:
    """Whether a field's description is a JSON Schema rather than ``{"type": "list[str]", "desc": …}``."""
    kind = value.get("type")
    if isinstance(kind, list) or kind in TYPE_NAMES:
        return True
    return not isinstance(kind, (str, dict)) and any(name in _TELLING for name in value)


def annotation(schema: Any, name: str) -> Any:
    """The annotation for a field called ``name`` whose values ``schema`` describes, but for its ``default``.

    Raises:
        ValueError: the schema is malformed, too deep, recursive, or uses what is not covered.
    """
    definitions: dict[str, Any] = {}
    if isinstance(schema, dict):
        for holder in ("$defs", "definitions"):
            found = schema.get(holder, {})
            if not isinstance(found, dict):
                raise ValueError(f"{holder} must be an object")
            definitions |= {f"#/{holder}/{key}": value for key, value in found.items()}
        schema = without_default(schema)
    return _Reader(definitions).read(schema, _class_name(name), (), 0)


def without_default(schema: Any) -> Any:
    """``schema`` without what is the field's business, not its type's."""
    if not isinstance(schema, dict):
        return schema
    return {name: value for name, value in schema.items() if name != "default"}


def default(value: Any, kind: Any) -> Any:
    """``value`` as the default of a field with the annotation ``kind``.

    Raises:
        ValueError: it does not fit.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        raise ValueError(f"the default {str(value)[:80]!r} does not fit the schema") from None


def named(kind: Any) -> Any:
    """``kind`` as it can stand inside other types: DSPy prints those with all there is to Annotated ones."""
    if get_origin(kind) is not Annotated:
        return kind

    def core_schema(cls: Any, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return handler.generate_schema(kind)

    members = {"__get_pydantic_core_schema__": classmethod(core_schema), "__module__": __name__}
    return type(get_annotation_name(get_args(kind)[0]), (), members)


def lenient(kind: Any) -> Any:
    """``kind``, a Literal, so that it takes its members in other words, too.

    XML has nothing but texts, and what looks like a number reaches unions as one.
    """
    members = get_args(kind)
    meant: dict[tuple[type, Any], Any] = {}
    for member in members:
        for other in _other_words(member):
            if other not in members:
                meant.setdefault((type(other), other), member)
    if not meant:
        return kind

    def read(value: Any) -> Any:
        return meant.get((type(value), value), value) if isinstance(value, (str, float, int)) else value

    return Annotated[kind, pydantic.BeforeValidator(read)]


def _other_words(member: Any) -> tuple[Any, ...]:
    if member is None:
        return "", "null", "None"
    if not isinstance(member, str):
        return str(member), str(member).lower()
    try:
        value = json.loads(member)
    except ValueError:
        return ()
    return (value,) if isinstance(value, (float, int)) else ()


class _Reader:
    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._done: dict[str, Any] = {}
        self._properties = 0

    def read(self, schema: Any, name: str, refs: tuple[str, ...], depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("the schema is nested too deeply")
        if schema is True or schema == {}:
            return Any
        if not isinstance(schema, dict):
            raise ValueError("a JSON Schema must be an object")
        if unknown := sorted(set(schema) - KEYWORDS):
            raise ValueError(f"the JSON Schema keyword {unknown[0]!r} is not supported")
        if "default" in schema:
            raise ValueError("a default is for properties and input fields only")
        if not isinstance(schema.get("nullable", False), bool):
            raise ValueError("nullable must be true or false")
        check_together(schema)
        found = self._core(schema, name, refs, depth)
        return Optional[named(found)] if schema.get("nullable") is True else found  # noqa: UP045 - built at run time

    def _core(self, schema: dict[str, Any], name: str, refs: tuple[str, ...], depth: int) -> Any:
        if "$ref" in schema:
            return self._ref(schema["$ref"], refs, depth)
        if "enum" in schema or "const" in schema:
            return _literal(schema)
        for combination in COMBINATIONS:
            if combination in schema:
                return self._combined(combination, schema[combination], name, refs, depth)
        if "type" not in schema:
            return self.read({**schema, "type": _implied(schema)}, name, refs, depth)
        kind = schema["type"]
        if isinstance(kind, list):
            if not all(isinstance(each, str) for each in kind):
                raise ValueError("type must be a text or a list of texts")
            choices = [of_type(schema, each) for each in kind]
            return self._combined("type", choices, name, refs, depth)
        if kind == "array":
            return self._array(schema, name, refs, depth)
        if kind == "object":
            return self._object(schema, name, refs, depth)
        if not isinstance(kind, str) or kind not in _SCALARS:
            raise ValueError(f"unknown JSON Schema type {kind!r}")
        return bounded(_SCALARS[kind], schema)

    def _ref(self, ref: Any, refs: tuple[str, ...], depth: int) -> Any:
        if not isinstance(ref, str) or ref not in self._definitions:
            raise ValueError(f"$ref {ref!r} leads nowhere; only $defs of the same schema can be meant")
        if ref in refs:
            raise ValueError(f"$ref {ref!r} leads back to itself")
        if ref not in self._done:
            target = ref.rpartition("/")[2]
            self._done[ref] = self.read(self._definitions[ref], _class_name(target), (*refs, ref), depth + 1)
        return self._done[ref]

    def _combined(self, keyword_: str, choices: Any, name: str, refs: tuple[str, ...], depth: int) -> Any:
        if not isinstance(choices, list) or not choices or len(choices) > MAX_PROPERTIES:
            raise ValueError(f"{keyword_} must be a list of 1 to {MAX_PROPERTIES}")
        if keyword_ == "allOf" and len(choices) > 1:
            raise ValueError("allOf of several schemas is not supported")
        names = [name] if len(choices) == 1 else [f"{name}{number}" for number in range(1, len(choices) + 1)]
        read = [self.read(choice, each, refs, depth + 1) for choice, each in zip(choices, names, strict=True)]
        return read[0] if len(read) == 1 else Union[tuple(map(named, read))]  # noqa: UP007 - built at run time

    def _array(self, schema: dict[str, Any], name: str, refs: tuple[str, ...], depth: int) -> Any:
        if "prefixItems" in schema:
            prefix = schema["prefixItems"]
            if not isinstance(prefix, list) or not prefix or len(prefix) > MAX_PROPERTIES:
                raise ValueError(f"prefixItems must be a list of 1 to {MAX_PROPERTIES}")
            sizes = {schema.get("minItems", len(prefix)), schema.get("maxItems", len(prefix))}
            if schema.get("items", False) is not False or sizes != {len(prefix)}:
                raise ValueError("with prefixItems an array has exactly these items")
            read = [self.read(each, f"{name}{i}", refs, depth + 1) for i, each in enumerate(prefix)]
            return types.GenericAlias(tuple, tuple(map(named, read)))
        item = self.read(schema.get("items", {}), f"{name}Item", refs, depth + 1)
        return bounded(types.GenericAlias(list, (named(item),)), schema)

    def _object(self, schema: dict[str, Any], name: str, refs: tuple[str, ...], depth: int) -> Any:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        extra = schema.get("additionalProperties")
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise ValueError("properties must be an object and required a list")
        if missing := [each for each in required if not isinstance(each, str) or each not in properties]:
            raise ValueError(f"required names {missing[0]!r}, which is no property")
        inner = Any if extra in (None, True, False) else self.read(extra, f"{name}Value", refs, depth + 1)
        if not properties:
            found = types.GenericAlias(dict, (str, named(inner)))
            return Annotated[found, pydantic.Field(max_length=0)] if extra is False else found
        self._properties += len(properties)
        if self._properties > MAX_PROPERTIES:
            raise ValueError(f"the schema has more than {MAX_PROPERTIES} properties")
        fields: dict[str, Any] = {}
        for number, (key, value) in enumerate(properties.items()):
            read = self.read(without_default(value), name + _class_name(key), refs, depth + 1)
            fields[_field_name(key, number)] = _field(key, value, read, key in required)
        policy = "forbid" if extra is False else "ignore" if extra is None else "allow"
        base = SchemaModel if inner is Any else _with_extra(inner)
        return pydantic.create_model(name, __base__=base, __cls_kwargs__={"extra": policy}, **fields)


def _with_extra(kind: Any) -> type[SchemaModel]:
    """A base whose models check the values of properties that are not listed."""
    members = {"__annotations__": {"__pydantic_extra__": types.GenericAlias(dict, (str, kind))}}
    return type("Extra", (SchemaModel,), {**members, "__module__": __name__})


def _field(key: str, schema: Any, read: Any, required: bool) -> tuple[Any, Any]:
    about = schema if isinstance(schema, dict) else {}
    description = about.get("description") or about.get("desc")
    settings: dict[str, Any] = {"description": description} if isinstance(description, str) else {}
    if _field_name(key, 0) != key:
        settings["alias"] = key
    given = default(about["default"], read) if "default" in about else None
    if required:
        return read, pydantic.Field(**settings)
    if "default" in about:
        return read, pydantic.Field(default=given, **settings)
    optional = Optional[read]  # noqa: UP045 - built at run time
    kind = optional if _takes_null(read) else Annotated[optional, _ABSENT]
    return kind, pydantic.Field(default=None, **settings)


def _takes_null(kind: Any) -> bool:
    try:
        pydantic.TypeAdapter(kind).validate_python(None)
    except pydantic.ValidationError:
        return False
    return True


def _literal(schema: dict[str, Any]) -> Any:
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if not isinstance(values, list) or not values or len(values) > 1000:
        raise ValueError("enum must be a list of 1 to 1000 values")
    if "const" in schema:
        if schema["const"] not in values:
            raise ValueError("const is none of the enum's values")
        values = [schema["const"]]
    if not all(value is None or isinstance(value, (str, int)) for value in values):
        raise ValueError("enum and const take strings, whole numbers, booleans and null")
    check_enum(values, schema)
    return lenient(Literal[tuple(values)])


def _implied(schema: dict[str, Any]) -> str:
    if not OF_TYPE["object"].isdisjoint(schema):
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    raise ValueError("a JSON Schema needs a type")


def _field_name(key: str, number: int) -> str:
    plain = key.isidentifier() and not keyword.iskeyword(key) and not key.startswith("_")
    return key if plain and not hasattr(pydantic.BaseModel, key) else f"property_{number}"


def _class_name(name: str) -> str:
    words = "".join(char if char.isascii() and char.isalnum() else " " for char in name).split()
    return "".join(word[:1].upper() + word[1:] for word in words)[:60] or "Value"
