"""Types written as text (``list[str]``, ``Literal['a', 'b'] | None``), read without evaluating anything.

``dspy.Signature`` imports whatever module a type's text names. Here a text is parsed, and every name in it
must be on the list.
"""

from __future__ import annotations

import ast
import datetime
import types
from collections.abc import Callable
from typing import Any, Literal, Optional, Union

import dspy

from bridge.dspy_runtime.json_schema import lenient, named

MAX_TYPE_CHARS = 2_000
MAX_DEPTH = 16

_PLAIN: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "Any": Any,
    "None": None,
    "datetime": datetime.datetime,
    "date": datetime.date,
}
_MEDIA: dict[str, Any] = {
    name: getattr(dspy, name) for name in ("Image", "Audio", "File", "History", "Code", "Reasoning")
}
_ALIASES = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set"}
_GENERIC_ARITY = {"list": (1, 1), "set": (1, 1), "dict": (2, 2), "tuple": (1, 64)}

NAMES = (*_PLAIN, "Optional", "Union", "Literal", *_MEDIA)


def parse_type(text: str) -> Any:
    """The annotation that ``text`` means.

    Raises:
        ValueError: it is no type, or names one that is not on the list; the message is for the text's author.
    """
    if len(text) > MAX_TYPE_CHARS:
        raise ValueError(f"the type is longer than {MAX_TYPE_CHARS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{_short(text)} is not a type") from None
    return _annotation(tree.body, 0)


def _annotation(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("the type is nested too deeply")
    if isinstance(node, ast.Name):
        return _named(node.id)
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Attribute):
        return _media(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_annotation(node.left, depth + 1), _annotation(node.right, depth + 1)]  # noqa: UP007 - built at run time
    if isinstance(node, ast.Subscript):
        return _subscript(node, depth)
    raise ValueError(f"{_short(ast.unparse(node))} is not a type")


def _named(name: str) -> Any:
    name = _ALIASES.get(name, name)
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _MEDIA:
        return _MEDIA[name]
    if name in ("Optional", "Union", "Literal"):
        raise ValueError(f"{name} needs something in brackets")
    raise _unknown(name)


def _media(node: ast.Attribute) -> Any:
    if isinstance(node.value, ast.Name) and node.value.id == "dspy" and node.attr in _MEDIA:
        return _MEDIA[node.attr]
    raise _unknown(ast.unparse(node))


def _subscript(node: ast.Subscript, depth: int) -> Any:
    arguments = [*node.slice.elts] if isinstance(node.slice, ast.Tuple) else [node.slice]
    base = node.value.id if isinstance(node.value, ast.Name) else ast.unparse(node.value)
    if base == "Literal":
        kind: Any = Literal[tuple(_literal(argument) for argument in arguments)]
        return named(lenient(kind)) if depth else kind  # DSPy itself reads those that stand alone
    if base in ("Code", "dspy.Code"):
        return _code(arguments)
    build = _generic(_ALIASES.get(base, base), arguments, depth + 1)
    return build()


def _generic(base: str, arguments: list[ast.expr], depth: int) -> Callable[[], Any]:
    if base == "Optional" and len(arguments) == 1:
        return lambda: Optional[_annotation(arguments[0], depth)]  # noqa: UP045 - built at run time
    if base == "Union" and arguments:
        return lambda: Union[tuple(_annotation(argument, depth) for argument in arguments)]  # noqa: UP007 - as above
    if base not in _GENERIC_ARITY:
        raise _unknown(base) if base not in NAMES else ValueError(f"{base} takes nothing in brackets")
    low, high = _GENERIC_ARITY[base]
    if not low <= len(arguments) <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise ValueError(f"{base} takes {wanted} types in brackets, not {len(arguments)}")
    return lambda: types.GenericAlias(_PLAIN[base], _parameters(base, arguments, depth))


def _parameters(base: str, arguments: list[ast.expr], depth: int) -> tuple[Any, ...]:
    if base == "tuple" and len(arguments) == 2 and _is_ellipsis(arguments[1]):
        return (_annotation(arguments[0], depth), ...)
    return tuple(_annotation(argument, depth) for argument in arguments)


def _literal(node: ast.expr) -> Any:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    if isinstance(inner, ast.Constant) and (inner.value is None or isinstance(inner.value, (str, int))):
        if not negative:
            return inner.value
        if type(inner.value) is int:
            return -inner.value
    raise ValueError(
        f"Literal takes strings, whole numbers, True, False and None, not {_short(ast.unparse(node))}"
    )


def _code(arguments: list[ast.expr]) -> Any:
    if len(arguments) == 1:
        argument = arguments[0]
        language = argument.value if isinstance(argument, ast.Constant) else getattr(argument, "id", None)
        if (
            isinstance(language, str)
            and language.replace("+", "").replace("#", "").replace("_", "").isalnum()
        ):
            return dspy.Code[language]
    raise ValueError("Code takes the name of one language in brackets")


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _unknown(name: str) -> ValueError:
    return ValueError(f"unknown type {_short(name)}; there are {', '.join(NAMES)}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 80 else text[:79] + "…")
