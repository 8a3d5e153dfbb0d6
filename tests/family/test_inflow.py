"""Telling a worker's lines apart must not depend on how its bytes are cut, nor lose or change one."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.family.inflow import Inflow, Kind, Route, key_of
from bridge.wire.framing import LONG
from bridge.wire.messages import RequestId

IDS: list[RequestId] = ["a", "b", 'q",\\"seq":1', 1, "1", "\u2028", "long" * 20, -5]
KINDS = dict(zip(IDS, [Kind.HOST] * 6 + [Kind.OWN, Kind.GHOST], strict=True))
UNBOUND = [b'{"id":null,"type":"ready","x":1}', b'{"id":null,"type":"error","code":"x"}']
WIDE = b',"text":"%b"}' % (b"w" * LONG)
NESTED = b',"value":{"done":true}}'


def line_of(request_id: RequestId, seq: int, rest: bytes) -> bytes:
    return b'{"id":%b,"seq":%d%b' % (key_of(request_id), seq, rest)


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[RequestId | None, bytes]]:
    """Lines of several requests as a worker writes them: numbered, some of them ended."""
    seqs: dict[RequestId, int] = {}
    ended: set[RequestId] = set()
    lines: list[tuple[RequestId | None, bytes]] = []
    for _ in range(draw(st.integers(0, 40))):
        choice = draw(st.sampled_from([*IDS, *IDS[:2] * 3, None]))
        if choice is None:
            lines.append((None, draw(st.sampled_from(UNBOUND))))
        elif choice not in ended:
            seq = seqs.get(choice, 0)
            seqs[choice] = seq + 1
            done = draw(st.integers(0, 9)) == 0
            rest = (
                b',"type":"x","done":true}'
                if done
                else draw(st.sampled_from([b',"type":"x"}', NESTED, WIDE]))
            )
            if done:
                ended.add(choice)
            lines.append((choice, line_of(choice, seq, rest)))
    return lines


@given(conversations(), st.lists(st.integers(0, 3000), max_size=20))
def test_lines_are_told_apart_however_they_are_cut(
    lines: list[tuple[RequestId | None, bytes]], cuts: list[int]
) -> None:
    inflow = Inflow()
    routes = {request_id: Route(request_id, kind, request_id) for request_id, kind in KINDS.items()}
    for route in routes.values():
        inflow.add(route)
    data = b"".join(line + b"\n" for _, line in lines)
    marks = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    relayed, ended, own, unbound = b"", [], [], []
    for begin, end in pairwise(marks):
        news = inflow.feed(data[begin:end])
        assert news.lines.endswith(b"\n") or not news.lines
        relayed += news.lines
        ended += [(route.owner, line) for route, line in news.ended]
        own += [(route.owner, line) for route, line in news.own]
        unbound += news.unbound
    hosts = [(name, line) for name, line in lines if name is not None and KINDS[name] is Kind.HOST]
    kept = [
        line
        for name, line in lines
        if (name is None and b'"error"' in line) or (name is not None and KINDS[name] is Kind.HOST)
    ]
    assert relayed.splitlines() == kept
    assert ended == [(name, line) for name, line in hosts if line.endswith(b',"done":true}')]
    assert own == [(name, line) for name, line in lines if name is not None and KINDS[name] is Kind.OWN]
    assert unbound == [line for name, line in lines if name is None and b'"ready"' in line]
    for request_id, route in routes.items():
        written = [line for name, line in hosts if name == request_id and type(name) is type(request_id)]
        if KINDS[request_id] is Kind.HOST:
            assert route.chunks == len(written)
        gone = any(line.endswith(b',"done":true}') for name, line in lines if name == request_id)
        assert (route.key in inflow.routes) is not gone


@given(st.text(max_size=60) | st.integers(-(2**53), 2**53))
def test_a_key_is_an_id_as_workers_write_it(request_id: Any) -> None:
    try:
        request_id.encode() if isinstance(request_id, str) else None
    except UnicodeEncodeError:
        return  # half a surrogate pair: no id
    key = key_of(request_id)
    assert json.loads(key) == request_id
    assert not any(mark in key.decode() for mark in "\u2028\u2029\x85")


def test_a_line_of_megabytes_in_pieces() -> None:
    inflow = Inflow()
    inflow.add(Route("a", Kind.HOST, None))
    line = line_of("a", 0, b',"text":"' + b"x" * 3_000_000 + b'"}\n')
    news = [inflow.feed(line[place : place + 65536]) for place in range(0, len(line), 65536)]
    assert b"".join(each.lines for each in news) == line
    assert inflow.routes[b'"a"'].chunks == 1


def test_lines_of_nobody_are_dropped() -> None:
    inflow = Inflow()
    news = inflow.feed(line_of("a", 0, b',"type":"x"}') + b"\n")
    assert (news.lines, news.ended) == (b"", [])
