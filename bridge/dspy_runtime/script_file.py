"""Reading the script of the ``scripted`` LM: JSON Lines, one :class:`ScriptEntry` each. No DSPy here."""

import math
from pathlib import Path

import msgspec

from bridge.dspy_runtime.specs import ScriptEntry

#: A script is read whole; this keeps a wrong path (a device, a dump) from filling the memory.
MAX_SCRIPT_BYTES = 64 * 1024 * 1024

_decoder = msgspec.json.Decoder(ScriptEntry)


def check_script(path: str | None, tokens_per_s: float = 0.0) -> None:
    """Refuse an unreadable or broken script, and an impossible pace, before the worker is ready.

    Raises:
        ValueError: with the file's name and the number of the line that is wrong.
    """
    if not math.isfinite(tokens_per_s) or tokens_per_s < 0:
        raise ValueError(f"The script's tokens per second must be 0 or more, not {tokens_per_s}.")
    if path is not None:
        load_script(path)


def load_script(path: str) -> list[ScriptEntry]:
    """All entries of a script file; blank lines are skipped.

    Raises:
        ValueError: the file can not be read, or a line is no entry.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"The script file {name} can not be read: {reason}.") from error
    if len(data) > MAX_SCRIPT_BYTES:
        raise ValueError(f"The script file {name} is larger than {MAX_SCRIPT_BYTES // 2**20} MiB.")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [_entry(line, f"{name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def check_entries(entries: list[ScriptEntry]) -> None:
    """Refuse entries of an inline script that contradict themselves.

    Raises:
        ValueError: with the entry's index.
    """
    for index, entry in enumerate(entries):
        if problem := _contradiction(entry):
            raise ValueError(f"script[{index}]: {problem}")


def _entry(line: bytes, where: str) -> ScriptEntry:
    try:
        entry = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"The script is broken at {where}: {error}") from error
    if problem := _contradiction(entry):
        raise ValueError(f"The script is broken at {where}: {problem}")
    return entry


def _contradiction(entry: ScriptEntry) -> str | None:
    answers = [name for name in ("outputs", "text", "error") if getattr(entry, name) is not None]
    if len(answers) > 1:
        return f"{' and '.join(answers)} exclude each other."
    if entry.error is not None and entry.error.code is None and entry.error.status is None:
        return "an error needs a status or a code."
    if entry.error is not None and entry.error.code not in (None, *ERROR_CODES):
        return f"unknown error code {entry.error.code!r}; there are {', '.join(ERROR_CODES)}."
    return None


#: What ``error.code`` may be.
ERROR_CODES = (
    "auth",
    "billing",
    "rate_limit",
    "timeout",
    "server",
    "transport",
    "invalid_request",
    "context_length",
    "unsupported_model",
)
