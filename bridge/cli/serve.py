"""The command line of ``serve``: flags and environment to :class:`ServeOptions`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bridge.cli.usage import Usage, WrongValue
from bridge.options import ServeOptions

if TYPE_CHECKING:
    from bridge.cli.flags import Parser

#: What ``--workers`` takes at most: a slip of the finger must not fork the machine to death.
MAX_WORKERS = 256
Number = TypeVar("Number", int, float)

_DESCRIPTION = """\
Be a worker: read requests from stdin, one JSON object a line, and write chunks to stdout.

'serve' may be left out when stdin is no terminal: what follows 'dspy-bridge' must then be nothing or
a flag of this list, as in: ... | dspy-bridge --model openai/gpt-4o-mini"""

#: Environment variables and the option each gives a default for.
ENVIRONMENT = {
    "DSPY_BRIDGE_MODEL": "model",
    "DSPY_BRIDGE_API_BASE": "api_base",
    "DSPY_BRIDGE_SCRIPT": "script",
    "DSPY_BRIDGE_LOG_LEVEL": "log_level",
}
CHOICES = {
    "framing": ("lines", "packet4"),
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("json", "text"),
    "adapter": ("chat", "json", "xml"),
}


def _at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = _read(int, text)
        if value is None or value < minimum:
            raise WrongValue(f"give a whole number, {minimum:,} or more, not {text!r}")
        return value

    return integer


def _seconds(text: str) -> float:
    value = _read(float, text)
    if value is None or not 0 < value < 1e10:
        raise WrongValue(f"give a number of seconds above 0, not {text!r}")
    return value


def _pace(text: str) -> float:
    value = _read(float, text)
    if value is None or not 0 <= value < 1e10:
        raise WrongValue(f"give a number of tokens per second, 0 or more, not {text!r}")
    return value


_NAME_CHARS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


def module_name(text: str) -> str:
    """The value of ``--commands`` and ``--tools``."""
    if not text:
        raise WrongValue("give the name of a module")
    return text


def mcp_server(text: str) -> tuple[str, tuple[str, ...]]:
    """The value of ``--mcp``: the server's name and the words that start it."""
    import shlex  # only where there are servers

    name, equals, command = text.partition("=")
    if not equals or not name or name.strip(_NAME_CHARS):
        right = "NAME=COMMAND with a name of letters, digits, '_' and '-', as in calc='python calc.py'"
        raise WrongValue(f"give {right}, not the name {name!r}" if equals else f"give {right}")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise WrongValue(f"the command of {name!r} can not be read as a shell would: {error}") from None
    if not words or not words[0]:
        raise WrongValue(f"give a command after '{name}=', as in {name}='python calc.py'")
    return name, words


def _workers(text: str) -> int:
    if text == "auto":
        from bridge.cli.cores import usable_cores  # only where it is asked

        return min(usable_cores(), MAX_WORKERS)
    value = _read(int, text)
    if value is None or not 1 <= value <= MAX_WORKERS:
        raise WrongValue(f"give a number from 1 to {MAX_WORKERS:,} or 'auto', not {text!r}")
    return value


def _read(kind: type[Number], text: str) -> Number | None:
    try:
        return kind(text)
    except ValueError:
        return None


#: Name, metavar (None for a switch), type, help; in the order ``--help`` shows them.
FLAGS: tuple[tuple[str, str | None, Callable[[str], Any], str], ...] = (
    ("workers", "N", _workers, "worker processes behind the one pipe; auto: one for each core"),
    ("framing", "HOW", str, "lines (JSON and LF) or packet4 (Erlang's {packet, 4})"),
    ("model", "MODEL", str, "default language model, such as openai/gpt-4o-mini (DSPY_BRIDGE_MODEL)"),
    ("api_base", "URL", str, "address of the model's API (DSPY_BRIDGE_API_BASE)"),
    ("adapter", "NAME", str, "how prompts are written: chat, json or xml"),
    ("script", "FILE", str, "canned answers for the model 'scripted' (DSPY_BRIDGE_SCRIPT)"),
    ("script_tokens_per_s", "N", _pace, "pace of the scripted model's tokens; 0 is at once"),
    ("cache_dir", "DIR", str, "keep answers of language models on disk in DIR"),
    ("memory_cache_entries", "N", _at_least(1), "answers of language models kept in memory"),
    ("preload", None, str, "import DSPy right after ready instead of on first use"),
    ("log_level", "LEVEL", str, "debug, info, warning or error (DSPY_BRIDGE_LOG_LEVEL)"),
    ("log_format", "HOW", str, "json (a line each) or text (for people)"),
    ("log_file", "FILE", str, "append the log to FILE instead of stderr"),
    ("debug", None, str, "add tracebacks to error chunks (details.traceback)"),
    ("max_line_bytes", "N", _at_least(1024), "longest line, both ways"),
    ("max_depth", "N", _at_least(8), "deepest nesting, both ways"),
    ("max_inflight", "N", _at_least(1), "requests running at once"),
    ("max_queued", "N", _at_least(0), "requests waiting"),
    ("max_queued_bytes", "N", _at_least(0), "bytes of args of the requests waiting"),
    ("max_requests", "N", _at_least(1), "recycle a worker after N requests"),
    ("max_rss_mb", "N", _at_least(1), "recycle a worker that is larger than N MB"),
    ("max_age_s", "S", _seconds, "recycle a worker after S seconds"),
    ("hung_after_s", "S", _seconds, "with several workers: replace one that answers nothing for S seconds"),
    ("retry_died", None, str, "with several workers: run again what a dead one had sent nothing of"),
    ("grace_ms", "MS", _at_least(0), "how long a drain may take"),
    ("die_with_parent", None, str, "have the kernel kill the worker with the thread that started it"),
    ("no_parent_watch", None, str, "go on when the parent process ends while stdin is open"),
    ("commands", "MODULE", module_name, "import MODULE for its commands (may be repeated)"),
    ("tools", "MODULE", module_name, "import MODULE for its tools (may be repeated)"),
    ("mcp", "NAME=COMMAND", mcp_server, "start COMMAND for the tools of an MCP server (may be repeated)"),
)
#: The flags that may be repeated.
REPEATED = frozenset({"commands", "tools", "mcp"})


def parse_serve(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> ServeOptions:
    """The options that the words after ``serve`` and the environment ask for.

    :raises Usage: for unknown flags and values out of range, saying what is right.
    """
    flags = _quick(argv)
    if flags is None:
        flags = vars(_parser().parse(argv))
    values: dict[str, Any] = {
        name: environ[variable] for variable, name in ENVIRONMENT.items() if environ.get(variable)
    }
    values.update({name: value for name, value in flags.items() if value is not None})
    values.update({name: tuple(values[name]) for name in REPEATED & values.keys()})
    check_mcp_names(values.get("mcp", ()))
    values["parent_watch"] = not values.pop("no_parent_watch", False)
    for name, allowed in CHOICES.items():
        if values.get(name, allowed[0]) not in allowed:
            raise Usage(f"{flag_of(name)} must be one of {', '.join(allowed)}, not {values[name]!r}.")
    return ServeOptions(**values)


def _quick(argv: Sequence[str]) -> dict[str, Any] | None:
    """What argparse would make of flags that are all right; None leaves the rest, and --help, to it.

    Importing argparse and building the parser would be a tenth of a worker's start.
    """
    flags: dict[str, Any] = {}
    known = {flag_of(name): (name, metavar, kind) for name, metavar, kind, _ in FLAGS}
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in known:
            return None
        name, metavar, kind = known[flag]
        if metavar is None:
            if equals:
                return None
            flags[name] = True
            continue
        try:
            value = value if equals else next(words)
            read = kind(value)
        except (WrongValue, StopIteration):
            return None
        if name not in REPEATED:
            flags[name] = read
        elif value.startswith("-"):
            return None
        else:
            flags.setdefault(name, []).append(read)
    return flags


def check_mcp_names(servers: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Make sure that no two servers have one name.

    :raises Usage: when they have.
    """
    names = [name for name, _ in servers]
    for name in names:
        if names.count(name) > 1:
            raise Usage(f"--mcp: two servers have the name {name!r}. Give each a name of its own.")


def print_help() -> int:
    """Show the flags on stdout; gives the exit code."""
    print(_parser().format_help(), end="")
    return 0


def _parser() -> Parser:
    from bridge.cli.flags import Parser, told

    parser = Parser("dspy-bridge serve", _DESCRIPTION)
    defaults = ServeOptions()
    for name, metavar, kind, text in FLAGS:
        if metavar is None:
            parser.add_argument(flag_of(name), dest=name, action="store_true", default=None, help=text)
            continue
        if (default := getattr(defaults, name)) not in (None, 0.0, ()):
            text = f"{text} (default: {default})"
        action = "append" if name in REPEATED else "store"
        parser.add_argument(
            flag_of(name), dest=name, metavar=metavar, type=told(kind), action=action, help=text
        )
    return parser


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")
