"""What the benchmarks' chunks carry. Standard library only: the floors import it, too."""

from __future__ import annotations

from typing import Final

_BIG: Final = 10_000
_LETTERS: Final = "Größe und Maß, déjà vu, Привет мир, こんにちは世界 "
_TYPESET: Final = "“It is here”, she said — “at last …” 20 °C «oui» "


def _fill(pattern: str, size: int) -> str:
    """``pattern`` repeated and cut to at most ``size`` bytes of UTF-8."""
    times = size // len(pattern.encode()) + 1
    return (pattern * times).encode()[:size].decode(errors="ignore")


#: Texts by name. ``10k-typeset`` is full of the lead bytes that the separators' escapes look for.
TEXTS: Final = {
    "80b": _fill("The quick brown fox jumps over the lazy dog. ", 80),
    "10k-ascii": _fill("The quick brown fox jumps over the lazy dog. ", _BIG),
    "10k-letters": _fill(_LETTERS, _BIG),
    "10k-typeset": _fill(_TYPESET, _BIG),
}
