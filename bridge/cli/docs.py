"""Writes ``docs/commands.md`` from what a worker says of its commands: ``python -m bridge.cli.docs``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bridge
from bridge.cli.describe import ask_worker
from bridge.cli.schema import Field, chunk_name, fields_of

TARGET = Path(bridge.__file__).parent / "docs" / "commands.md"

_HEAD = """\
# Commands

<!-- Written by `make docs` from the registry; edits here are lost. -->

Each command's args and the chunks it answers with. A terminal chunk also carries `"done": true`;
`id` and `seq` are on all. `dspy-bridge describe COMMAND --json` gives the same as JSON Schema.
"""


def render(description: Mapping[str, Any]) -> str:
    """The page's text for the answer to a ``describe`` command."""
    lines = [_HEAD]
    for name, command in description["commands"].items():
        lines += [f"## {name}", "", _markdown(command["doc"].strip()), ""]
        lines += _table("args", fields_of(command["args"]))
        for schema in command["chunks"]:
            fields = [field for field in fields_of(schema) if field.name != "type"]
            lines += _table(f"Chunk `{chunk_name(schema)}`", fields, schema.get("description", ""))
    return "\n".join(lines).rstrip() + "\n"


def _markdown(text: str) -> str:
    """Docstring markup as Markdown has it: one backtick, no roles."""
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", text.replace("``", "`"))


def _table(title: str, fields: Sequence[Field], text: str = "") -> Iterator[str]:
    about = f": {_markdown(' '.join(text.split()))}" if text else ""
    yield f"**{title}**{about}" if fields or about else f"**{title}**: none"
    yield ""
    if not fields:
        return
    yield "| field | type | default | |"
    yield "| --- | --- | --- | --- |"
    for field in fields:
        default = "*required*" if field.required else f"`{field.default}`" if field.default else ""
        cells = [f"`{field.name}`", field.type, default, _markdown(" ".join(field.text.split()))]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def main() -> None:
    """Write the page."""
    TARGET.write_text(render(ask_worker([])), encoding="utf-8")
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main()
