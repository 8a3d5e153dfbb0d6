"""Reading a JSON object's members while it is being written: see :mod:`bridge.dspy_runtime.field_readers`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Final

from bridge.dspy_runtime.field_readers import MAX_HEADER, Event, Reader, Whole

_PLAIN = re.compile(r'[^"\\]*')
_STRING = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
_OTHER = re.compile(r'[^"{}\[\],]*')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_SPACE: Final = " \t\n\r"


class JsonReader(Reader):
    """One JSON object, its members the fields; prose and code fences around it are passed over."""

    def __init__(
        self, fields: Collection[str], texts: Collection[str], whole: Whole, *, prose: bool = False
    ) -> None:
        super().__init__(fields, texts, whole, prose=prose)
        self._state: Callable[[str, int], int] = self._before
        self._rest = ""
        self._name = ""
        self._depth = 0
        self._in_string = False
        self._pair = ""  # the first half of a surrogate pair

    def _read(self, text: str) -> None:
        if self._rest:
            text, self._rest = self._rest + text, ""
        at, end = 0, len(text)
        while at < end:
            before = at
            at = self._state(text, at)
            if at == before:  # it needs more to go on
                self._rest = text[at:]
                return

    def finish(self) -> list[Event]:
        self._field, self._is_text, self._pieces = None, False, []  # an open value is not complete
        return super().finish()

    # Each state reads from a position on and returns how far it came: no further when it needs more text.

    def _before(self, text: str, at: int) -> int:
        found = text.find("{", at)
        if self._wants_prose:
            self._prose.append(text[at:] if found < 0 else text[at:found])
        if found < 0:
            return len(text)
        self._state = self._member
        return found + 1

    def _member(self, text: str, at: int) -> int:
        char = text[at]
        if char == '"':
            self._state = self._in_key
        elif char not in _SPACE and char != ",":
            self._state = self._ended
        return at + 1

    def _in_key(self, text: str, at: int) -> int:
        whole = _STRING.match(text, at)
        if whole is None:
            if len(text) - at > MAX_HEADER:
                self._state = self._ended
            return at
        try:
            self._name = str(json.loads('"' + whole[0], strict=False))
            self._state = self._colon
        except ValueError:
            self._state = self._ended
        return whole.end()

    def _colon(self, text: str, at: int) -> int:
        char = text[at]
        if char == ":":
            self._state = self._value
        elif char not in _SPACE:
            self._state = self._ended
        return at + 1

    def _value(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE:
            return at + 1
        self._open(self._name)
        if char == '"' and self._is_text:
            self._state = self._in_text
            return at + 1
        self._is_text = False  # a text field's number or null: known when it is complete
        self._depth, self._in_string = 0, False
        self._state = self._in_other
        return self._in_other(text, at)

    def _in_text(self, text: str, at: int) -> int:
        plain = _PLAIN.match(text, at)
        end = plain.end() if plain else at
        if end > at:
            self._put(text[at:end])
        if end == len(text):
            return end
        if text[end] == '"':
            self._put("")
            self._close()
            self._state = self._member
            return end + 1
        return self._escape(text, end)

    def _escape(self, text: str, at: int) -> int:
        """From a backslash on."""
        if at + 1 == len(text):
            return at
        char = text[at + 1]
        if char != "u":
            if char not in _ESCAPES:
                self._give_up()
                return len(text)
            self._put(_ESCAPES[char])
            return at + 2
        if at + 6 > len(text):
            return at
        try:
            code = int(text[at + 2 : at + 6], 16)
        except ValueError:
            self._give_up()
            return len(text)
        self._put_code(code)
        return at + 6

    def _put_code(self, code: int) -> None:
        if self._pair and 0xDC00 <= code <= 0xDFFF:
            high = ord(self._pair)
            self._pair = ""
            self._pieces.append(chr(0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)))
        elif 0xD800 <= code <= 0xDBFF:
            self._put("")
            self._pair = chr(code)
        else:
            self._put(chr(code))

    def _put(self, text: str) -> None:
        if self._pair:
            text, self._pair = self._pair + text, ""
        if text:
            self._pieces.append(text)

    def _in_other(self, text: str, at: int) -> int:
        """Inside a value that is given whole."""
        if self._in_string:
            return self._in_other_string(text, at)
        found = _OTHER.match(text, at)
        end = found.end() if found else at
        if end == len(text):
            self._pieces.append(text[at:])
            return end
        char = text[end]
        if char in ",}]" and self._depth == 0:
            self._pieces.append(text[at:end])
            self._close()
            self._state = self._member if char == "," else self._ended
            return end + 1
        if char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        elif char == '"':
            self._in_string = True
        self._pieces.append(text[at : end + 1])
        return end + 1

    def _in_other_string(self, text: str, at: int) -> int:
        plain = _PLAIN.match(text, at)
        end = plain.end() if plain else at
        if end == len(text):
            self._pieces.append(text[at:])
            return end
        if text[end] == "\\":
            if end + 1 == len(text):
                self._pieces.append(text[at:end])
                return end
            self._pieces.append(text[at : end + 2])
            return end + 2
        self._in_string = False
        self._pieces.append(text[at : end + 1])
        return end + 1

    def _give_up(self) -> None:
        self._leave()
        self._state = self._ended

    def _ended(self, text: str, at: int) -> int:
        return len(text)
