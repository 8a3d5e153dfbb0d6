"""Reading JSON the slow and exact way, for what the fast decoder refuses although it is sound.

msgspec refuses integers of more than 4,300 digits and escaped lone surrogates (which JavaScript's
``JSON.stringify`` writes). Here integers are read whatever their size, through decimal, which unlike
``int`` takes time in proportion to their length; a lone surrogate becomes U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

from bridge.wire.fallback import clean

#: Python converts texts of up to 4,300 digits itself.
_SHORT_DIGITS: Final = 4000
_LEADING_ID: Final = re.compile(r'\s*\{\s*"id"\s*:\s*("(?:[^"\\]|\\.){1,128}"|-?\d{1,16})\s*[,}]')


def loads(data: bytes) -> Any:
    """The value of a JSON text.

    :raises ValueError: for what is no JSON, or holds a number that no float can.
    :raises UnicodeDecodeError: for what is no UTF-8 (a ValueError too).
    """
    text = data.decode()
    value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_refuse)
    return _mended(value) if "\\u" in text else value


def leading_id(line: bytes) -> Any:
    """The id of a line that can not be read as a whole, if it is the line's first field; or None."""
    if match := _LEADING_ID.match(line[:1024].decode(errors="replace")):
        try:
            return json.loads(match[1])
        except ValueError:
            return None
    return None


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _SHORT_DIGITS else int(Decimal(digits))


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _mended(value: Any) -> Any:
    """``value`` with lone surrogates replaced; its depth was checked before."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _mended(item) for key, item in value.items()}
    return value
