"""From words on a command line to a command's args: ``key=value``, JSON objects, ``@file`` and ``-``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bridge.cli.usage import Usage

_KEY = re.compile(r"[A-Za-z_][\w.\-]*\Z")


def parse_args(words: Sequence[str]) -> dict[str, Any]:
    """The args object that ``words`` describe.

    A word is ``key=value`` (JSON if it parses as JSON, else a string), ``key=@file`` (the file's
    JSON, or a list of a ``.jsonl`` file's lines), ``key=-`` (the same from stdin), a JSON object,
    ``@file`` or ``-`` (an object from a file or stdin). Later words add to earlier ones; a key
    given twice, a file that can not be read and JSON that does not parse raise Usage.
    """
    args: dict[str, Any] = {}
    for word in words:
        for key, value in _object_of(word).items():
            if key in args:
                raise Usage(f"{key!r} is given twice.")
            args[key] = value
    return args


def _object_of(word: str) -> dict[str, Any]:
    if word == "-" or word.startswith("@"):
        return _require_object(_read(word), word)
    if word.lstrip().startswith("{"):
        return _require_object(_loads(word, "the JSON argument"), word)
    key, equals, value = word.partition("=")
    if not equals or not _KEY.match(key):
        raise Usage(f"{word!r} is neither key=value, nor a JSON object, nor @file.")
    return {key: _value_of(value)}


def _value_of(text: str) -> Any:
    if text == "-" or (text.startswith("@") and len(text) > 1):
        return _read(text)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _read(word: str) -> Any:
    """What stands in the file ``@word`` names, or on stdin for ``-``."""
    name = "stdin" if word == "-" else word[1:]
    try:
        text = sys.stdin.read() if word == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise Usage(f"Can not read {name}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Usage(f"{name} is not UTF-8 text.") from None
    text = text.removeprefix("\ufeff")
    if name.endswith((".jsonl", ".ndjson")) or (word == "-" and _looks_like_lines(text)):
        return _load_lines(text, name)
    return _loads(text, name)


def _looks_like_lines(text: str) -> bool:
    """Whether ``text`` is several JSON values, one a line, rather than one spread over lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        return False
    try:
        json.loads(lines[0])
    except ValueError:
        return False
    return True


def _load_lines(text: str, name: str) -> list[Any]:
    numbered = enumerate(text.split("\n"), start=1)  # not splitlines(): it cuts inside JSON strings
    return [_loads(line, f"line {number} of {name}") for number, line in numbered if line.strip()]


def _loads(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Usage(f"{what} is no JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    except (ValueError, RecursionError) as error:
        raise Usage(f"{what} is no JSON: {error}.") from None


def _require_object(value: Any, word: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        hint = " To send a list, name it: items=@file.jsonl" if isinstance(value, list) else ""
        raise Usage(f"{word[:60]!r} holds no JSON object.{hint}")
    return value
