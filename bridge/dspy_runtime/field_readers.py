"""Reading an adapter's answer while it is being written: which output field each piece of text belongs to.

One reader per format. Each follows the ``parse`` method of DSPy 3.4's adapter, so that the pieces of a text
field joined are the value that ``parse`` finds, however the text is cut. What a reader can not follow (a
JSON object that needs repair, tags inside a text) it leaves alone: it then says less, never something else.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from enum import IntEnum
from typing import Final
from xml.parsers import expat


class Kind(IntEnum):
    """What an :data:`Event` tells."""

    DELTA = 0  # more of the field's value
    LINE = 1  # the field's current line is complete; its line break follows with the next text, if any
    DONE = 2  # the field's value is complete
    THOUGHT = 3  # native thinking that belongs to no field (the field is "")
    PROSE = 4  # what the model says before any field begins (as above); told on request
    CALLS = 5  # the model begins to call tools by its own means (as above)


#: What happened, in which field, and the text of a ``DELTA``, ``THOUGHT`` or ``PROSE`` ("" otherwise).
Event = tuple[Kind, str, str]

#: The text of a value that is no text itself, from how the model wrote it; None if it can not be read yet.
Whole = Callable[[str, str], str | None]

_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
# Where str.splitlines() splits.
_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
#: Characters of a line's beginning, or of a member's name, that are held back until it is clear what it is.
MAX_HEADER: Final = 1000
_HEADER_START: Final = "[[ ## "
_HEADER_END: Final = " ## ]]"


class Reader(ABC):
    """Common to all formats. ``texts``: the fields whose values are texts and streamed; of the other
    ``fields`` the value is given whole, as ``whole(field, written)`` makes it, when it is complete.
    ``prose``: tell what stands before the first field, too."""

    def __init__(
        self, fields: Collection[str], texts: Collection[str], whole: Whole, *, prose: bool = False
    ) -> None:
        self._fields = fields
        self._texts = texts
        self._whole = whole
        self._seen: set[str] = set()
        self._wants_prose = prose
        self._prose: list[str] = []
        self._events: list[Event] = []
        self._field: str | None = None
        self._is_text = False
        self._pieces: list[str] = []  # of a text: what this turn adds; of others: all of it

    def feed(self, text: str) -> list[Event]:
        """What the next piece of the answer brings."""
        self._read(text)
        return self._taken()

    def skip(self, field: str) -> None:
        """Pass the field over: its value does not come from the text."""
        self._seen.add(field)
        if self._field == field:
            self._leave()

    def finish(self) -> list[Event]:
        """What is known once the answer is complete."""
        self._close()
        return self._taken()

    @abstractmethod
    def _read(self, text: str) -> None:
        """Take the next piece of the answer."""

    def _taken(self) -> list[Event]:
        if self._is_text and self._pieces:
            self._flush()
        events, self._events = self._events, []
        if self._prose:
            events.insert(0, (Kind.PROSE, "", "".join(self._prose)))
            self._prose = []
        return events

    def _flush(self) -> None:
        if self._field is not None:
            self._events.append((Kind.DELTA, self._field, "".join(self._pieces)))
        self._pieces = []

    def _open(self, name: str) -> None:
        """The field ``name`` begins; a field's second appearance, or no field, is passed over."""
        self._pieces = []
        self._wants_prose = False
        if name in self._fields and name not in self._seen:
            self._seen.add(name)
            self._field, self._is_text = name, name in self._texts
        else:
            self._field, self._is_text = None, False

    def _close(self) -> None:
        """The open field is complete."""
        field = self._field
        if field is None:
            return
        if self._is_text:
            if self._pieces:
                self._flush()
        else:
            value = self._whole(field, "".join(self._pieces))
            if value is None:
                self._leave()
                return
            if value:
                self._events.append((Kind.DELTA, field, value))
        self._events.append((Kind.DONE, field, ""))
        self._leave()

    def _leave(self) -> None:
        """Say nothing more of the open field."""
        if self._is_text and self._pieces:
            self._flush()
        self._field, self._is_text, self._pieces = None, False, []


class _Stripped(Reader):
    """Formats that strip the white space around values: it is held back until more follows."""

    def __init__(
        self, fields: Collection[str], texts: Collection[str], whole: Whole, *, prose: bool = False
    ) -> None:
        super().__init__(fields, texts, whole, prose=prose)
        self._held: list[str] = []
        self._begun = False

    def _open(self, name: str) -> None:
        super()._open(name)
        self._held, self._begun = [], False

    def _add(self, text: str) -> None:
        if self._field is None:
            if self._wants_prose:
                self._prose.append(text)
            return
        if not self._begun:
            text = text.lstrip()
            if not text:
                return
            self._begun = True
        kept = text.rstrip()
        if kept:
            if self._held:
                self._pieces += self._held
                self._held = []
            self._pieces.append(kept)
        if len(kept) != len(text):
            self._held.append(text[len(kept) :])

    def _line_ended(self) -> None:
        if self._begun and self._is_text and self._field is not None:
            if self._pieces:
                self._flush()
            self._events.append((Kind.LINE, self._field, ""))


class ChatReader(_Stripped):
    """``[[ ## field ## ]]`` headers, each at the beginning of a line, values between them."""

    def __init__(
        self, fields: Collection[str], texts: Collection[str], whole: Whole, *, prose: bool = False
    ) -> None:
        super().__init__(fields, texts, whole, prose=prose)
        self._start: str | None = ""  # the line so far, as long as it can still become a header
        self._header_line = False
        self._after_cr = False

    def feed(self, text: str) -> list[Event]:
        # Nearly every piece is a word within a line: told in a third of the time that the long way takes.
        if (
            self._start is None
            and self._is_text
            and self._begun
            and not self._after_cr
            and (field := self._field) is not None
            and not _BREAK.search(text)
        ):
            kept = text.rstrip()
            if kept:
                told = "".join(self._held) + kept if self._held else kept
                self._held = [text[len(kept) :]] if len(kept) != len(text) else []
                return [(Kind.DELTA, field, told)]
        return super().feed(text)

    def _read(self, text: str) -> None:
        if self._after_cr and text:
            self._after_cr = False
            if text[0] == "\n":
                text = text[1:]
        at = 0
        for found in _BREAK.finditer(text):
            self._in_line(text[at : found.start()])
            self._break()
            at = found.end()
        if at < len(text):
            self._in_line(text[at:])
        elif at and text[-1] == "\r":
            self._after_cr = True  # the LF of a CRLF may come with the next piece

    def finish(self) -> list[Event]:
        if self._start:
            self._add(self._start)
            self._start = None
        return super().finish()

    def _in_line(self, text: str) -> None:
        if self._start is None:
            if text:
                self._add(text)
            return
        line = self._start + text
        stripped = line.lstrip()
        if header := _HEADER.match(stripped):
            self._close()
            self._open(header[1])
            self._start, self._header_line = None, True
            # ChatAdapter.parse cuts the unstripped line at the stripped one's offset; so does this.
            self._add(line[header.end() :])
        elif len(line) < MAX_HEADER and _may_become_header(stripped):
            self._start = line
        else:
            self._start = None
            self._add(line)

    def _break(self) -> None:
        if self._start:
            self._add(self._start)
        self._start = ""
        if self._header_line:
            self._header_line = False
            self._held = []  # what stands in the header's own line is stripped on its own
        if self._begun:
            if "\n" not in self._held:
                self._line_ended()
            self._held.append("\n")
        elif self._wants_prose:
            self._prose.append("\n")


def _may_become_header(text: str) -> bool:
    if len(text) <= len(_HEADER_START):
        return _HEADER_START.startswith(text)
    if not text.startswith(_HEADER_START):
        return False
    rest = text[len(_HEADER_START) :]
    name = re.match(r"\w*", rest)
    tail = rest[name.end() :] if name else rest
    return not tail or (len(tail) < len(rest) and _HEADER_END.startswith(tail))


class XmlReader(_Stripped):
    """Elements named like the fields, read by expat as ``XMLAdapter.parse`` does."""

    def __init__(
        self, fields: Collection[str], texts: Collection[str], whole: Whole, *, prose: bool = False
    ) -> None:
        super().__init__(fields, texts, whole, prose=prose)
        self._depth = 0
        self._parser: expat.XMLParserType | None = expat.ParserCreate()
        self._parser.StartElementHandler = self._element
        self._parser.EndElementHandler = self._element_ended
        self._parser.CharacterDataHandler = self._characters
        self._parse("<root>")

    def _read(self, text: str) -> None:
        self._parse(text)

    def finish(self) -> list[Event]:
        if self._parser is not None:
            self._wants_prose = False
            self._parse("</root>")
        self._leave()  # of an element that is still open
        self._parser = None  # it and its handlers refer to each other
        return super().finish()

    def _parse(self, text: str) -> None:
        if self._parser is None:
            if self._wants_prose:
                self._prose.append(text)
            return
        try:
            self._parser.Parse(text, False)
        except (expat.ExpatError, UnicodeEncodeError):
            self._leave()
            self._parser = None

    def _element(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2:
            self._open(attributes.get("key", tag) if tag == "entry" else tag)
        elif self._depth == 3 and self._field is not None:
            self._leave()  # the adapter reads what has tags inside in ways of its own

    def _element_ended(self, tag: str) -> None:
        if self._depth == 2:
            self._close()
        self._depth -= 1

    def _characters(self, text: str) -> None:
        if self._depth == 1 and self._wants_prose:
            self._prose.append(text)
        elif self._depth == 2:
            self._add(text)
            if text == "\n" and self._held.count("\n") == 1:
                self._line_ended()
