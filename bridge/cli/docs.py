"""Writes ``docs/commands.md`` from what a worker says of its commands: ``python -m bridge.cli.docs``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bridge
from bridge.cli.describe import ask_worker, plain
from bridge.cli.schema import Field, chunk_name, definitions_of, description_of, fields_of

#: The name of an object in a type's text: all other words of it begin with a small letter or a quote.
_OBJECT = re.compile(r"(?<![\w\"])[A-Z]\w+")

TARGET = Path(bridge.__file__).parent / "docs" / "commands.md"

_HEAD = """\
# Commands

<!-- Written by `make docs` from the registry; edits here are lost. -->

Each command's args and the chunks it answers with. A terminal chunk also carries `"done": true`;
`id` and `seq` are on all. `dspy-bridge describe COMMAND --json` gives the same as JSON Schema.
[Signatures](signatures.md) and [streams, agents and tools](streaming.md) have pages of their own.
"""


def render(description: Mapping[str, Any]) -> str:
    """The page's text for the answer to a ``describe`` command."""
    lines = [_HEAD]
    for name, command in description["commands"].items():
        lines += [f"## {name}", "", plain(command["doc"]), ""]
        lines += _args(command["args"])
        for schema in command["chunks"]:
            lines += _chunk(schema)
    lines += _objects(description["commands"].values())
    return "\n".join(lines).rstrip() + "\n"


def _objects(commands: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table for each object that args or chunks hold, under the name that links lead to."""
    schemas = [schema for command in commands for schema in (command["args"], *command["chunks"])]
    objects = definitions_of(schemas)
    if objects:
        yield from ("## Objects", "", "What the tables above name. A key that is not listed is refused.", "")
    for name, text, fields in objects:
        yield from (f"### {name}", "", plain(text), "")
        yield from _table("default", fields, [_default(field) for field in fields])


def _args(schema: Mapping[str, Any]) -> Iterator[str]:
    fields = fields_of(schema)
    yield "**args**" if fields else "**args**: none"
    yield ""
    if about := plain(description_of(schema)):
        yield from (about, "")
    if fields:
        yield from _table("default", fields, [_default(field) for field in fields])


def _chunk(schema: Mapping[str, Any]) -> Iterator[str]:
    fields = [field for field in fields_of(schema) if field.name != "type"]
    about = plain(" ".join(schema.get("description", "").split()))
    yield f"**Chunk `{chunk_name(schema)}`**" + (f": {about}" if about else "")
    yield ""
    if fields:
        yield from _table("present", fields, ["always" if field.required else "" for field in fields])


def _table(title: str, fields: Sequence[Field], column: Sequence[str]) -> Iterator[str]:
    """Rows of ``fields``, with ``column`` under ``title``; texts only if there are any."""
    texts = any(field.text for field in fields)
    yield f"| field | type | {title} |" + (" |" if texts else "")
    yield "| --- | --- | --- |" + (" --- |" if texts else "")
    for field, cell in zip(fields, column, strict=True):
        cells = [f"`{field.name}`", _OBJECT.sub(_link, field.type), cell]
        if texts:
            cells.append(plain(" ".join(field.text.split())))
        yield "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
    yield ""


def _link(name: re.Match[str]) -> str:
    return f"[{name[0]}](#{name[0].lower()})"


def _default(field: Field) -> str:
    if field.required:
        return "*required*"
    return f"`{field.default}`" if field.default else ""


def main() -> None:
    """Write the page."""
    TARGET.write_text(render(ask_worker([])), encoding="utf-8")
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main()
