"""Where chunks are shown: as they came, as plain text, or with a live progress bar."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from bridge.cli.process import Line
from bridge.cli.readable import Reader, Text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class View(Protocol):
    """Shows one request's chunks, each at once."""

    def show(self, line: Line) -> None:
        """Show one chunk. Raises BrokenPipeError when nobody reads any more."""

    def log(self, text: str) -> None:
        """Show a line of the worker's log; called from another thread."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class RawView:
    """The worker's lines, byte for byte, on stdout."""

    def show(self, line: Line) -> None:
        sys.stdout.buffer.write(line.raw)
        sys.stdout.buffer.flush()

    def log(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class PlainView:
    """Readable lines for anything that takes text."""

    def __init__(self) -> None:
        self._reader = Reader()

    def show(self, line: Line) -> None:
        for text in self._reader.read(line.chunk):
            print(text.text, end=text.end)
        sys.stdout.flush()

    def log(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class RichView:
    """Coloured lines above a progress bar, for a terminal; needs ``rich``."""

    _STYLES = {"good": "green", "bad": "red", "dim": "dim", "bold": "bold"}  # noqa: RUF012 - never changed

    def __init__(self, title: str) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._stderr = Console(stderr=True, highlight=False, soft_wrap=True)
        self._reader = Reader(progress=False)
        self._bar, self._task = self._make_bar(title)

    def _make_bar(self, title: str) -> tuple[Progress, TaskID]:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            console=self._console,
            transient=True,
        )
        task = bar.add_task(title, total=None)
        bar.start()
        return bar, task

    def show(self, line: Line) -> None:
        chunk = line.chunk
        if chunk.get("done") or chunk.get("type") == "token":
            self._bar.stop()  # text that grows within a line and a live bar do not go together
        self._advance(chunk)
        self._print(self._reader.read(chunk))

    def _advance(self, chunk: dict[str, Any]) -> None:
        if isinstance(progress := chunk.get("progress"), (int, float)):
            self._bar.update(self._task, total=1.0, completed=float(progress))

    def _print(self, texts: Iterable[Text]) -> None:
        from rich.text import Text as RichText

        for text in texts:
            self._console.print(RichText(text.text, self._STYLES.get(text.style, "")), end=text.end)

    def log(self, text: str) -> None:
        from rich.text import Text as RichText

        console = self._console if self._bar.live.is_started else self._stderr
        console.print(RichText(text, "yellow"))

    def close(self) -> None:
        self._bar.stop()


def choose_view(title: str, *, raw: bool = False, pretty: bool = False) -> View:
    """The view that ``raw`` or ``pretty`` ask for, or that fits where stdout goes."""
    terminal = sys.stdout.isatty()
    if raw or not (terminal or pretty):
        return RawView()
    if terminal and importlib.util.find_spec("rich"):
        return RichView(title)
    return PlainView()
