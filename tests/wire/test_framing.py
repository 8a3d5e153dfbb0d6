"""Framing: frames must not depend on how the bytes are cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.wire.framing import (
    BOM,
    FRAMINGS,
    Decoder,
    Frame,
    LineDecoder,
    Oversized,
    Packet4Decoder,
    Truncated,
)
from tests.support.wirecheck import frame as pack

LIMIT = 20
#: Bytes in which what framing looks at is frequent.
BYTES = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b" ", b"a", b'{"a":1}', BOM, b"\x00", b"x" * LIMIT, b"\xe2\x80\xa8"]
    )
    | st.binary(max_size=8),
    max_size=30,
).map(b"".join)
PACKETS = st.lists(st.binary(max_size=LIMIT + 6) | st.just(b" \r\n") | st.just(BOM + b"{}"), max_size=10)


def feed(decoder: Decoder, parts: Iterable[bytes]) -> list[Frame]:
    frames = [frame for part in parts for frame in decoder.feed(part)]
    return frames + decoder.finish()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def reference_lines(data: bytes) -> list[Frame]:
    """PROTOCOL's "Lines", written the simplest way."""
    frames: list[Frame] = []
    for number, line in enumerate(data.split(b"\n")):
        if number == 0:
            line = line.removeprefix(BOM)
        line = line.removesuffix(b"\r")
        if line.strip():
            frames.append(line if len(line) <= LIMIT else Oversized(0))
    return frames


def same(found: list[Frame], expected: list[Frame]) -> bool:
    """Equal, whatever size an oversized frame tells."""
    return [isinstance(item, Oversized) or item for item in found] == [
        isinstance(item, Oversized) or item for item in expected
    ]


@given(BYTES, st.lists(st.integers(0, 200), max_size=20))
def test_lines_do_not_depend_on_how_bytes_are_cut(data: bytes, places: list[int]) -> None:
    whole = feed(LineDecoder(LIMIT), [data])
    assert same(feed(LineDecoder(LIMIT), cut(data, places)), whole)
    assert same(feed(LineDecoder(LIMIT), [bytes([byte]) for byte in data]), whole)
    assert same(whole, [f for f in reference_lines(data) if not is_long_blank(f)])


def is_long_blank(frame: Frame) -> bool:
    return isinstance(frame, bytes) and frame.isspace()


@given(PACKETS, st.lists(st.integers(0, 200), max_size=20), st.integers(0, 5))
def test_packets_do_not_depend_on_how_bytes_are_cut(
    packets: list[bytes], places: list[int], short: int
) -> None:
    data = b"".join(pack(packet, "packet4") for packet in packets)
    data = data[: len(data) - short]
    whole = feed(Packet4Decoder(LIMIT), [data])
    assert feed(Packet4Decoder(LIMIT), cut(data, places)) == whole
    assert feed(Packet4Decoder(LIMIT), [bytes([byte]) for byte in data]) == whole


@given(st.lists(st.binary(min_size=1, max_size=LIMIT).filter(lambda b: b.strip() and not b.startswith(BOM))))
def test_every_packet_within_the_limit_comes_out_as_it_went_in(packets: list[bytes]) -> None:
    data = b"".join(pack(packet, "packet4") for packet in packets)
    assert feed(Packet4Decoder(LIMIT), [data]) == packets


@pytest.mark.parametrize("framing", FRAMINGS)
@given(sizes=st.lists(st.integers(LIMIT + 1, LIMIT * 5), min_size=1, max_size=5), step=st.integers(1, 40))
def test_an_oversized_frame_is_told_with_its_size_and_the_next_one_is_whole(
    framing: str, sizes: list[int], step: int
) -> None:
    good = b'{"ok":1}'
    data = pack(good, framing) + b"".join(pack(b"x" * size, framing) + pack(good, framing) for size in sizes)
    frames = feed(FRAMINGS[framing](LIMIT), [data[at : at + step] for at in range(0, len(data), step)])
    expected: list[Frame] = [good]
    for size in sizes:
        expected += [Oversized(size), good]
    assert frames == expected


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_oversized_frame_is_never_held_in_memory(framing: str) -> None:
    import tracemalloc

    decoder = FRAMINGS[framing](1024)
    block = b"x" * 65536
    decoder.feed((2**30).to_bytes(4, "big") if framing == "packet4" else b"x")
    tracemalloc.start()
    for _ in range(500):
        assert all(isinstance(item, Oversized) for item in decoder.feed(block))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\n\r\n  \n", []),
        (b"a\r\n", [b"a"]),
        (b"a\r\r\n", [b"a\r"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"\r", []),
        (BOM + b"a\n" + BOM + b"b\n", [b"a", BOM + b"b"]),
        (BOM, []),
        (BOM + b"\n", []),
        (b"\n" + BOM + b"a\n", [BOM + b"a"]),
        (b"a\xe2\x80\xa8b\n", [b"a\xe2\x80\xa8b"]),
        (b"a\xc2\x85b\x0bc\x0cd\x1ce\n", [b"a\xc2\x85b\x0bc\x0cd\x1ce"]),
        (b"no newline at the end", [b"no newline at the end"[:LIMIT]] if LIMIT > 21 else [Oversized(21)]),
        (b"x" * LIMIT + b"\r\n", [b"x" * LIMIT]),
        (BOM + b"x" * LIMIT + b"\r\n", [b"x" * LIMIT]),
        (b"x" * LIMIT + b"\n", [b"x" * LIMIT]),
        (b"x" * LIMIT, [b"x" * LIMIT]),
        (b"x" * (LIMIT + 1) + b"\n", [Oversized(LIMIT + 1)]),
    ],
)
def test_lines_end_with_lf_and_drop_cr_blank_lines_and_the_first_bom(
    data: bytes, expected: list[Frame]
) -> None:
    assert feed(LineDecoder(LIMIT), [data]) == expected
    assert feed(LineDecoder(LIMIT), [bytes([byte]) for byte in data]) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\0\0\0\0", []),
        (b"\0\0\0\1a", [b"a"]),
        (b"\0\0\0\2\r\n", []),
        (b"\0\0\0\4" + BOM + b"a" + b"\0\0\0\4" + BOM + b"b", [b"a", BOM + b"b"]),
        (b"\0", [Truncated(0)]),
        (b"\0\0\0", [Truncated(0)]),
        (b"\0\0\0\5ab", [Truncated(5)]),
        (b"\0\0\0\1a\0\0\0\5", [b"a", Truncated(5)]),
    ],
)
def test_packets_drop_blank_ones_and_tell_a_truncated_one(data: bytes, expected: list[Frame]) -> None:
    assert feed(Packet4Decoder(LIMIT), [data]) == expected
    assert feed(Packet4Decoder(LIMIT), [bytes([byte]) for byte in data]) == expected


def test_the_end_inside_an_oversized_packet_is_told_once() -> None:
    frames = feed(Packet4Decoder(LIMIT), [b"\xff\xff\xff\xff", b"abc"])
    assert len(frames) == 1
    assert isinstance(frames[0], Oversized)
