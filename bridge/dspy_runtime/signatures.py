"""Signatures from the wire: built without importing what they name, cached, held against inputs."""

from __future__ import annotations

import copy
import difflib
import functools
import keyword
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from typing import Annotated, Any, Optional

import dspy
import msgspec
import pydantic
from dspy.adapters.utils import annotation_allows_none

from bridge.dspy_runtime import json_keywords, json_schema
from bridge.dspy_runtime.errors import first_problem
from bridge.dspy_runtime.media import member, readers
from bridge.dspy_runtime.signature_fields import sort_fields
from bridge.dspy_runtime.signature_text import split_field, split_signature
from bridge.dspy_runtime.specs import SignatureSpec
from bridge.dspy_runtime.type_text import parse_type
from bridge.errors import BridgeError, Code, invalid_args

MAX_FIELDS = 100
MAX_CACHED = 256
MAX_NAME_CHARS = 100
MAX_DESC_CHARS = 20_000

#: What a predictor takes beside its inputs.
_RESERVED = frozenset(
    {"lm", "config", "demos", "signature", "new_signature", "prediction", "completions", "self"}
)
_PATH = "$.args.signature"
# DSPy turns what stands between such markers, in any user message, into images, files and other parts.
# Only its own media types may write them: in an item's text they would let data name files and addresses.
_MARKER = "<<CUSTOM-TYPE-"
_HARMLESS = "< <CUSTOM-TYPE-"

Spec = str | SignatureSpec


class CompiledSignature:
    """A ``dspy.Signature`` with what is needed to check inputs and outputs against it."""

    def __init__(self, signature: type[dspy.Signature]) -> None:
        self.signature = signature
        self.outputs = tuple(signature.output_fields)
        self._types = {name: full_type(field) for name, field in signature.input_fields.items()}
        # DSPy holds answers against the bare types, without the bounds a schema sets.
        self._bounded = {
            name: full_type(field) for name, field in signature.output_fields.items() if field.metadata
        }
        self._readers = readers(
            self._types, {name: field.annotation for name, field in signature.fields.items()}
        )
        self._validators: dict[str, pydantic.TypeAdapter[Any]] = {}
        self._defaults = {
            name: field.default for name, field in signature.input_fields.items() if not field.is_required()
        }
        self._optional = {
            name for name, field in signature.input_fields.items() if annotation_allows_none(field.annotation)
        }

    def coerce(self, inputs: dict[str, Any], path: str) -> dict[str, Any]:
        """``inputs`` with their values converted to the fields' types, as pydantic's lax mode does.

        ``path`` is where the inputs stand in the request (``$.args.items[2]``).

        Raises:
            BridgeError: ``invalid_args`` naming the field that is missing, unknown or of a wrong type.
        """
        coerced = {}
        for name, kind in self._types.items():
            if name not in inputs:
                if name in self._defaults:
                    coerced[name] = copy.deepcopy(self._defaults[name])
                    continue
                if name in self._optional:
                    continue
                raise invalid_args(f"The input field {name!r} is missing.", f"{path}.{name}")
            value = inputs[name]
            if kind is str and type(value) is str:
                coerced[name] = value if _MARKER not in value else defused(value)
            else:
                coerced[name] = self._convert(name, defused(value), path)
        if not inputs.keys() <= self._types.keys():
            self._refuse_unknown(inputs, path)
        return coerced

    def check_outputs(self, outputs: dict[str, Any]) -> None:
        """Hold an answer against the bounds that its fields' schemas set.

        Raises:
            BridgeError: ``lm_output_invalid`` naming the field.
        """
        for name, kind in self._bounded.items():
            if problem := self._problem(name, kind, outputs.get(name)):
                raise BridgeError(
                    f"The language model's answer has a field {name!r} that does not fit: {problem}",
                    code=Code.LM_OUTPUT_INVALID,
                    details={"field": name},
                )

    def _problem(self, name: str, kind: Any, value: Any) -> str | None:
        try:
            self._validator(name, kind).validate_python(value)
        except pydantic.ValidationError as error:
            return first_problem(error)[:300]
        return None

    def _validator(self, name: str, kind: Any) -> pydantic.TypeAdapter[Any]:
        validator = self._validators.get(name)
        if validator is None:
            validator = self._validators[name] = pydantic.TypeAdapter(kind)
        return validator

    def _convert(self, name: str, value: Any, path: str) -> Any:
        if name in self._readers:
            if value is not None:
                value = self._readers[name](value, f"{path}.{name}")
            elif self._types[name] is dspy.History and name in self._defaults:
                value = self._defaults[name]
        try:
            return self._validator(name, self._types[name]).validate_python(value)
        except pydantic.ValidationError as error:
            reason = first_problem(error)
        except (TypeError, ValueError, ImportError) as error:  # raised by DSPy's own types
            reason = str(error)
        raise invalid_args(
            f"The input field {name!r} has a value that does not fit: {reason[:300]}", f"{path}.{name}"
        )

    def _refuse_unknown(self, inputs: dict[str, Any], path: str) -> None:
        for name in inputs:
            if name not in self._types:
                near = difflib.get_close_matches(name, self._types, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(self._types)}."
                raise invalid_args(f"Unknown input field {name[:200]!r}.{hint}", member(path, name))


def full_type(field: pydantic.fields.FieldInfo) -> Any:
    """A field's annotation with the bounds that pydantic keeps beside it."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


class SignatureCache:
    """Compiled signatures by their text, the least recently used dropped first."""

    def __init__(self, size: int = MAX_CACHED) -> None:
        self._size = size
        self._known: OrderedDict[bytes, CompiledSignature] = OrderedDict()

    def compile(self, spec: Spec) -> CompiledSignature:
        """The signature a request names.

        Raises:
            BridgeError: ``invalid_args`` with the place and the field.
        """
        key = (
            spec.encode("utf-8", "surrogatepass")
            if isinstance(spec, str)
            else b"\0" + msgspec.json.encode(spec)
        )
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = CompiledSignature(build(spec))
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known


def build(spec: Spec) -> type[dspy.Signature]:
    """A new ``dspy.Signature`` class.

    Raises:
        BridgeError: ``invalid_args`` with the place and the field.
    """
    if isinstance(spec, str):
        try:
            inputs, outputs = split_signature(spec)
        except ValueError as error:
            raise invalid_args(str(error), _PATH) from None
        sides: tuple[Iterable[tuple[str, Any]], ...] = (inputs, outputs)
        paths, instructions = (_PATH, _PATH), None
    else:
        sides = (_pairs(spec.inputs), _pairs(spec.outputs))
        paths, instructions = (f"{_PATH}.inputs", f"{_PATH}.outputs"), spec.instructions
    fields: dict[str, Any] = {}
    for side, path, make in zip(sides, paths, (dspy.InputField, dspy.OutputField), strict=True):
        before = len(fields)
        for name, described in side:
            _check_name(name, fields, path)
            kind, settings = _described(name, described, path, make is dspy.InputField)
            fields[name] = (kind, _field(make, settings))
            if len(fields) > MAX_FIELDS:
                raise invalid_args(f"A signature has at most {MAX_FIELDS} fields.", path)
        if len(fields) == before:
            raise invalid_args("A signature needs at least one input and one output field.", path)
    return _make(fields, instructions)


def _make(fields: dict[str, Any], instructions: str | None) -> type[dspy.Signature]:
    try:
        with warnings.catch_warnings():
            # A field called "schema" or "copy" hides one of pydantic's methods, which nobody calls here.
            warnings.simplefilter("ignore", UserWarning)
            return _signature(fields, instructions)
    except (TypeError, ValueError, NameError, pydantic.PydanticUserError, RecursionError) as error:
        raise invalid_args(f"The signature can not be built: {str(error)[:300]}", _PATH) from error


def _signature(fields: dict[str, Any], instructions: str | None) -> type[dspy.Signature]:
    # Without instructions DSPy builds the class twice to find its own default; this is that default.
    if instructions is None:
        names = {
            side: ", ".join(f"`{name}`" for name, (_, field) in fields.items() if _side(field) == side)
            for side in ("input", "output")
        }
        instructions = f"Given the fields {names['input']}, produce the fields {names['output']}."
    return sort_fields(dspy.Signature(fields, instructions))


def _field(make: Any, settings: dict[str, Any]) -> Any:
    constraints = settings.pop("constraints", "")
    field = make(**settings)
    if constraints:  # DSPy shows them in prompts
        field.json_schema_extra["constraints"] = constraints
    return field


def _side(field: Any) -> str:
    return str(field.json_schema_extra["__dspy_field_type"])


def _pairs(side: list[str] | dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return side.items() if isinstance(side, dict) else (split_field(text) for text in side)


def _described(name: str, described: Any, path: str, is_input: bool) -> tuple[Any, dict[str, Any]]:
    """The annotation and the field settings of one field."""
    try:
        kind, settings = _read(name, described)
        if "default" in settings and not is_input:
            raise ValueError("an output field has no default")
        if is_input and kind == Optional[dspy.History]:  # noqa: UP045 - made at run time, too
            # DSPy makes turns of a field only if it is a History and nothing else.
            return dspy.History, {**settings, "default": dspy.History(messages=[])}
        return kind, settings
    except ValueError as error:
        reason = str(error)
    except RecursionError:
        reason = "the type is nested too deeply"
    where = path if path == _PATH else member(path, name)
    raise BridgeError(
        f"The field {name!r}: {reason}.", code=Code.INVALID_ARGS, details={"path": where, "field": name}
    )


def _read(name: str, described: Any) -> tuple[Any, dict[str, Any]]:
    if described is None:
        return str, {}
    if isinstance(described, str):
        return _wrapped(parse_type(described)), {}
    if not isinstance(described, dict):
        raise ValueError("a type is a text or an object")
    if json_schema.looks_like_schema(described):
        return _from_schema(described, name, described)
    if unknown := sorted(set(described) - {"type", "desc", "description"}):
        raise ValueError(f"unknown key {unknown[0]!r}; a field has type and desc, or is a JSON Schema")
    kind = described.get("type", "str")
    if not isinstance(kind, (str, dict)):
        raise ValueError("type must be a text or a JSON Schema")
    if isinstance(kind, dict):
        return _from_schema(kind, name, {**kind, **described})
    return _wrapped(parse_type(kind)), _desc(described)


def _from_schema(schema: dict[str, Any], name: str, described: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    kind = _wrapped(json_schema.annotation(schema, name))
    settings = _desc(described)
    if constraints := json_keywords.constraints(schema):
        settings["constraints"] = constraints
    if "default" in schema:
        settings["default"] = json_schema.default(schema["default"], kind)
    return kind, settings


def _desc(described: dict[str, Any]) -> dict[str, Any]:
    desc = described.get("desc", described.get("description"))
    if desc is None:
        return {}
    if not isinstance(desc, str) or len(desc) > MAX_DESC_CHARS:
        raise ValueError(f"desc must be a text of at most {MAX_DESC_CHARS} characters")
    return {"desc": desc}


def _wrapped(kind: Any) -> Any:
    # DSPy takes a bare None for "no type given".
    return type(None) if kind is None else kind


def _check_name(name: str, fields: dict[str, Any], path: str) -> None:
    problem = None
    if keyword.iskeyword(name):
        problem = f"{name!r} is a keyword of Python and can not name a field; please choose another."
    elif not name.isidentifier() or not name.isascii() or len(name) > MAX_NAME_CHARS:
        problem = f"{name[:80]!r} can not be the name of a field: letters, digits and underscores are needed."
    elif name.startswith(("_", "model_")) or name in _RESERVED or not _buildable(name):
        problem = f"The field name {name!r} is reserved; please choose another."
    elif name in fields:
        problem = f"The field {name!r} is there twice."
    if problem:
        where = path if path == _PATH or not name else member(path, name)
        raise BridgeError(problem, code=Code.INVALID_ARGS, details={"path": where, "field": name[:80]})


@functools.lru_cache(maxsize=1024)
def _buildable(name: str) -> bool:
    """Whether a signature can have a field of this name although DSPy's or pydantic's classes use it."""
    if not hasattr(dspy.Signature, name):
        return True
    other = f"{name}_"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fields = {name: (str, dspy.InputField()), other: (str, dspy.OutputField())}
            made = dspy.Signature(fields, "Try.")
            return list(made.input_fields) == [name] and made.input_fields[name].is_required()
    except Exception:  # noqa: BLE001 - whatever it is, the name does not work
        return False


def defused(value: Any) -> Any:
    """``value`` with its texts changed so that DSPy reads no media out of them."""
    if isinstance(value, str):
        return value.replace(_MARKER, _HARMLESS)
    if isinstance(value, list):
        return [defused(item) for item in value]
    if isinstance(value, dict):
        return {defused(key): defused(item) for key, item in value.items()}
    return value
