"""What one worker writes: whole lines, each told apart by its id. No I/O here.

Most lines go to the host as they are, and a block of them is not even copied. What must be known of them
is little: which is a request's last, and, for the day the worker dies, how many chunks each request has
had. Lines of one request stand together, so that a prefix comparison answers both for nearly all.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import msgspec
from orjson import dumps

from bridge.wire.codec import escape_separators
from bridge.wire.framing import lines_of
from bridge.wire.messages import RequestId

DONE: Final = b',"done":true}'
UNBOUND: Final = b'{"id":null,'
#: What a supervisor answers to itself, as opposed to errors about lines, which are the host's.
_OWN_UNBOUND: Final = (
    b'{"id":null,"type":"ready"',
    b'{"id":null,"type":"bye"',
    b'{"id":null,"type":"retire"',
)
_SEQ: Final = b',"seq":'
_NO_LINE: Final = b"\n"
_SEQ_DIGITS: Final = 20


class Kind(IntEnum):
    """What becomes of a request's lines."""

    HOST = 0
    OWN = 1
    GHOST = 2


class Route:
    """A request in a worker: whose it is, and where its lines go.

    ``HOST``: to the host. ``OWN``: to the supervisor, which asked. ``GHOST``: nowhere, because the host has
    been told already that it ended.
    """

    __slots__ = ("_last", "head", "key", "kind", "owner")

    def __init__(self, request_id: RequestId, kind: Kind, owner: Any) -> None:
        self.key = key_of(request_id)
        self.head = b'{"id":' + self.key + _SEQ
        self.kind = kind
        self.owner = owner
        self._last = b""

    def passed(self, line: bytes) -> None:
        """``line`` is the last one so far."""
        size = len(self.head)
        self._last = line[size : size + _SEQ_DIGITS]

    @property
    def chunks(self) -> int:
        """How many chunks the worker has written."""
        return int(self._last.partition(b",")[0]) + 1 if self._last else 0


class News(msgspec.Struct):
    """What a block of bytes brought.

    ``lines``: the bytes to relay, whole lines. ``ended``: requests with their terminal line, their routes
    gone. ``own``: lines for the supervisor. ``unbound``: lines without a request that are for it, too.
    """

    lines: bytes
    ended: list[tuple[Route, bytes]]
    own: list[tuple[Route, bytes]]
    unbound: list[bytes]


class Inflow:
    """The routes of one worker, and the end of a line that has not arrived yet."""

    def __init__(self) -> None:
        self.routes: dict[bytes, Route] = {}
        #: How many of them go nowhere.
        self.ghosts = 0
        self._tail: list[bytes] = []
        self._current: Route | None = None

    def add(self, route: Route) -> None:
        """Expect lines of ``route``."""
        self.routes[route.key] = route

    def drop(self, route: Route) -> None:
        """The host has been told that ``route`` ended: what still comes goes nowhere."""
        route.kind = Kind.GHOST
        self.ghosts += 1

    def feed(self, data: bytes) -> News:
        """Tell the lines apart that ``data`` completes."""
        cut = data.rfind(b"\n") + 1
        if not cut:
            self._tail.append(data)
            return News(b"", [], [], [])
        block = data if cut == len(data) else data[:cut]
        if self._tail:
            self._tail.append(block)
            block = b"".join(self._tail)
            self._tail.clear()
        if cut < len(data):
            self._tail.append(data[cut:])
        return self._sort(block)

    def _sort(self, block: bytes) -> News:
        news = News(block, [], [], [])
        lines = lines_of(block)
        dropped: list[int] = []
        route = self._current
        head = route.head if route is not None and route.kind is Kind.HOST else _NO_LINE
        last = b""
        for number, line in enumerate(lines):
            if line.startswith(head):
                last = line
                if line.endswith(DONE):
                    assert route is not None  # it has a head
                    self._end(route, line, news)
                    route, head, last = None, _NO_LINE, b""
                continue
            if last and route is not None:
                route.passed(last)
                last = b""
            route = self._route(line, news)
            head = _NO_LINE
            if route is None or route.kind is not Kind.HOST:
                if route is not None or _is_own(line) or not line.startswith(UNBOUND):
                    dropped.append(number)
            elif line.endswith(DONE):
                self._end(route, line, news)
                route = None
            else:
                head, last = route.head, line
        if last and route is not None:
            route.passed(last)
        self._current = route
        if dropped:
            for number in reversed(dropped):
                del lines[number]
            news.lines = b"\n".join([*lines, b""])
        return news

    def _route(self, line: bytes, news: News) -> Route | None:
        """The route of a line that is not the last one's; its own lines are news at once."""
        if line.startswith(UNBOUND):
            if _is_own(line):
                news.unbound.append(line)
            return None
        # A quote inside the id would be escaped: the first of these is the field's own.
        route = self.routes.get(line[len(b'{"id":') : line.find(_SEQ)])
        if route is not None and route.kind is not Kind.HOST:
            if route.kind is Kind.OWN:
                news.own.append((route, line))
            if line.endswith(DONE):
                del self.routes[route.key]
                self.ghosts -= route.kind is Kind.GHOST
        return route

    def _end(self, route: Route, line: bytes, news: News) -> None:
        route.passed(line)
        del self.routes[route.key]
        news.ended.append((route, line))


def key_of(request_id: RequestId) -> bytes:
    """An id as workers write it."""
    return escape_separators(dumps(request_id))


def _is_own(line: bytes) -> bool:
    return line.startswith(_OWN_UNBOUND)
