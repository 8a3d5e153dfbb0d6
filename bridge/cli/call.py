"""``call``: one request to a worker of its own, shown as it is answered. ``show``: chunks already there."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from bridge.cli.arguments import parse_args
from bridge.cli.flags import (
    BROKEN_PIPE,
    FAILED,
    INTERRUPTED,
    OK,
    WORKER_DIED,
    Parser,
    complain,
)
from bridge.cli.process import Line, WorkerDied, WorkerProcess
from bridge.cli.readable import BAD_ENDS
from bridge.cli.usage import Usage
from bridge.cli.views import PlainView, View, choose_view
from bridge.cli.worker_flags import add_worker_flags, worker_flags

_ID = "call"
#: How long, in seconds, a worker may take to answer a cancel before it is killed.
CANCEL_S = 3.0

NO_TOOLS = "dspy-bridge call runs no tools of its own; start it with --tools or --mcp and name theirs."

_EPILOG = """\
Values are JSON where they parse as JSON, else text: n=3 deep=true name=Ada tags='["a","b"]'.
key=@file.json and key=@file.jsonl read a file, key=- reads stdin.

Exit codes: 0 the request ended well, 1 it ended with an error, was cancelled, or items of
a batch failed, 2 wrong usage, 3 the worker died or did not start, 130 interrupted.

  dspy-bridge call ping
  dspy-bridge call stream_predict_batch signature='text -> completion' items=@examples/quickstart.jsonl \\
      --model scripted --script examples/quickstart.script.jsonl"""


def call(argv: Sequence[str]) -> int:
    """Run ``call`` with the words after it; gives the exit code."""
    options = _parser().parse(argv)
    request: dict[str, Any] = {"id": _ID, "command": options.command, "args": parse_args(options.args)}
    if options.timeout_ms is not None:
        request["timeout_ms"] = options.timeout_ms
    configure = _json_object(options.configure, "--configure") if options.configure else None
    view = choose_view(options.command, raw=options.raw, pretty=options.pretty)
    try:
        with WorkerProcess(worker_flags(options), view.log) as worker:
            return _Conversation(worker, view).run(request, configure)
    except WorkerDied as error:
        view.close()
        complain(str(error))
        return WORKER_DIED
    except BrokenPipeError:
        return BROKEN_PIPE
    finally:
        view.close()


def show(argv: Sequence[str]) -> int:
    """Run ``show``: chunks from stdin or a file, made readable; gives the exit code of the last end."""
    parser = Parser(
        "dspy-bridge show",
        "Make the chunks of a worker, one JSON object a line, readable.",
        epilog="Exit codes: 0 the last request ended well, 1 it ended with an error, was cancelled, or\n"
        "items of a batch failed, 2 wrong usage.",
    )
    parser.add_argument("file", nargs="?", help="read from FILE instead of stdin")
    options = parser.parse(argv)
    try:
        if options.file is None:
            return _show_lines(sys.stdin.buffer)
        with open(options.file, "rb") as file:
            return _show_lines(file)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        raise Usage(f"Can not read {options.file}: {error.strerror}.") from None


def _show_lines(lines: Any) -> int:
    view, outcome = PlainView(), OK
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            chunk = json.loads(raw)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise Usage(f"Line {number} is no JSON object.")
        if chunk.get("type") not in ("ready", "bye"):
            view.show(Line(raw, chunk))
            outcome = _outcome(chunk) if chunk.get("done") else outcome
    return outcome


class _Conversation:
    """One request and its end, ctrl-C included."""

    def __init__(self, worker: WorkerProcess, view: View) -> None:
        self._worker = worker
        self._view = view
        self._interrupts = 0

    def run(self, request: dict[str, Any], configure: dict[str, Any] | None) -> int:
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            if configure is not None and (code := self._configure(configure)) != OK:
                return code
            return self._exchange(request)
        except WorkerDied:
            if self._interrupts:
                return INTERRUPTED
            raise
        finally:
            signal.signal(signal.SIGINT, before)

    def _configure(self, args: dict[str, Any]) -> int:
        """Configure the worker first; an error is shown, a success is not."""
        answer = self._worker.ask("configure", args)
        if answer.get("type") not in BAD_ENDS:
            return OK
        self._view.show(Line(json.dumps(answer).encode() + b"\n", answer))
        return FAILED

    def _refuse(self, call_id: Any) -> None:
        """Nobody here can run a tool: say so at once rather than let the agent wait."""
        answer = {"target": _ID, "call_id": call_id, "error": NO_TOOLS}
        self._worker.send({"command": "tool_result", "args": answer})

    def _exchange(self, request: dict[str, Any]) -> int:
        self._worker.send(request)
        outcome = FAILED
        for line in self._worker.answers(_ID):
            self._view.show(line)
            outcome = _outcome(line.chunk)
            if line.chunk.get("type") == "tool_call" and line.chunk.get("host"):
                self._refuse(line.chunk.get("call_id"))
        return INTERRUPTED if self._interrupts else outcome

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """The first ctrl-C cancels the request, the second ends the worker."""
        self._interrupts += 1
        if self._interrupts > 1:
            self._worker.kill()
            return
        try:
            self._worker.send({"command": "cancel", "args": {"target": _ID}})
        except (WorkerDied, RuntimeError):  # RuntimeError: in the middle of writing the request
            self._worker.kill()
            return
        timer = threading.Timer(CANCEL_S, self._worker.kill)
        timer.daemon = True
        timer.start()


def _outcome(chunk: dict[str, Any]) -> int:
    """The exit code for a last chunk: a batch in which items failed did not go well either."""
    failed = chunk.get("failed") if chunk.get("type") == "complete" else 0
    some = isinstance(failed, int) and failed > 0
    return FAILED if some or chunk.get("type") in BAD_ENDS else OK


def _parser() -> Parser:
    parser = Parser(
        "dspy-bridge call", "Send one request to a worker and show what it answers.", epilog=_EPILOG
    )
    parser.add_argument(
        "command", metavar="COMMAND", help="name of the command; 'dspy-bridge describe' lists them"
    )
    parser.add_argument(
        "args", nargs="*", default=[], metavar="ARG", help="key=value, a JSON object, @file, or - for stdin"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", help="the chunks as they come (default in a pipe)")
    how.add_argument("--pretty", action="store_true", help="readable text (default on a terminal)")
    parser.add_argument(
        "--timeout-ms", type=_milliseconds, metavar="N", help="give the request N milliseconds"
    )
    parser.add_argument("--configure", metavar="JSON", help="args of a configure command to send first")
    add_worker_flags(parser)
    return parser


def _milliseconds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 2**31:
        import argparse

        raise argparse.ArgumentTypeError("give a whole number of milliseconds, 1 or more")
    return int(text)


def _json_object(text: str, flag: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Usage(f"{flag} wants a JSON object.")
    return value
