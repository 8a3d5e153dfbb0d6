"""One worker process and the requests that run in it: ids, routing, credit, tools, its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from bridge.client.chunks import KINDS, Chunk
from bridge.client.errors import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    LINE_TOO_LONG,
    SHUTTING_DOWN,
    ClientClosed,
    ProtocolError,
    RequestError,
    StartFailed,
    WorkerDied,
    from_chunk,
)
from bridge.client.inbox import Inbox
from bridge.client.process import Options, Process, how_it_ended
from bridge.client.request import Request
from bridge.client.tools import ToolFailed
from bridge.wire.framing import LineDecoder, Oversized

_log = logging.getLogger("bridge.client")

#: Seconds past a request's timeout after which a worker that does not answer is taken for hung.
OVERDUE_S: Final = 2.0
#: Seconds a worker may take to leave when it is told to, or when its output has ended.
LEAVE_S: Final = 2.0
#: Longest line, in bytes; the worker's own limit is far below.
MAX_LINE_BYTES: Final = 2**31
_CLOSED: Final = "The client was closed."

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder().encode


class Link:
    """A worker from its start to its end. ``ready`` is its first chunk.

    ``leaving`` is done once it takes no more requests, ``gone`` once it has ended (``end`` says how). A
    ``replaceable`` one is killed when it lets a request's time pass without a word.
    """

    def __init__(self, options: Options, *, replaceable: bool = False) -> None:
        self._options = options
        self._replaceable = replaceable
        self._loop = asyncio.get_running_loop()
        self._inboxes: dict[int, Inbox] = {}
        self._ids = itertools.count(1)
        self._decoder = LineDecoder(MAX_LINE_BYTES)
        self._process = Process(self._feed, self._on_end)
        self._started: asyncio.Future[Chunk] = self._loop.create_future()
        self._clean_up: asyncio.Task[None] | None = None
        self._said_bye = False
        self._broken: RequestError | None = None
        self._limit = MAX_LINE_BYTES
        self.closed = False
        self.useful = False  # it has answered something
        self.recycles = False  # it leaves of its own accord
        self.end = "runs"
        self.leaving: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.ready: Chunk = Chunk()

    # ---- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            StartFailed: it can not be started, ends, or is not ready in time.
        """
        options = self._options
        program = os.path.basename(os.fspath(options.argv[0]))
        spawning = self._loop.create_task(self._process.spawn(options))
        try:
            async with asyncio.timeout(options.ready_timeout):
                await asyncio.shield(spawning)
                self.ready = await asyncio.shield(self._started)
        except (OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                message = f"The worker {program!r} was not ready within {options.ready_timeout:g} s."
            else:
                message = f"The worker {program!r} can not be started: {_why(error, program)}."
            raise StartFailed(message) from error
        finally:
            if not self.ready:
                # A task, to be carried out however often this one is cancelled.
                self._clean_up = self._loop.create_task(self._give_up(spawning))
                await asyncio.shield(self._clean_up)
        limit = (self.ready.get("limits") or {}).get("max_line_bytes")
        self._limit = limit if isinstance(limit, int) else MAX_LINE_BYTES

    async def _give_up(self, spawning: asyncio.Task[None]) -> None:
        await asyncio.wait([spawning])
        await self._kill()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def in_flight(self) -> int:
        """How many requests run."""
        return len(self._inboxes)

    def check(self) -> None:
        """Come back if it takes requests.

        Raises:
            RequestError: it does not, and why.
        """
        if self.usable:
            return
        if self.closed:
            raise ClientClosed(_CLOSED)
        if self._broken is not None:
            raise self._broken.again()
        if self.gone.done():
            raise WorkerDied(f"The worker {self.end}.")
        raise RequestError("The worker is ending.", code=SHUTTING_DOWN, retryable=True)

    @property
    def usable(self) -> bool:
        """Whether it takes requests."""
        return bool(self.ready) and not self.leaving.done()

    async def close(self, grace: float) -> None:
        """Let running requests end within ``grace`` seconds, then end the worker."""
        self.closed = True
        self._leave()
        try:
            if grace > 0 and self.ready:
                # Its input stays open: tools are answered and credit is granted to the end.
                self._shut_down({"mode": "drain", "grace_ms": round(grace * 1000)})
                await asyncio.wait([self.gone], timeout=grace)
            self._fail_all(ClientClosed(_CLOSED))
            self._shut_down({"mode": "abort"})
            self._process.close_stdin()
            await self._process.wait(LEAVE_S)
        finally:
            await self._kill()

    def _shut_down(self, args: dict[str, Any]) -> None:
        self._process.write(_encode({"command": "shutdown", "args": args}) + b"\n")

    async def _kill(self) -> None:
        """End the process whatever it does, and give everything back."""
        self._leave()
        self._process.kill()
        try:
            await self._process.wait(LEAVE_S)
        finally:
            self._process.close()
            self._on_end(None)

    # ---- requests ------------------------------------------------------------------------------

    def send(self, request: Request, timeout_ms: int | None) -> Inbox:
        """Begin a request; its chunks come into the inbox.

        Raises:
            RequestError: it is longer than what the worker reads.
        """
        inbox = Inbox(next(self._ids), request.tools, request.context)
        line = request.line(inbox.request_id, timeout_ms)
        if len(line) > self._limit:
            message = f"The request has {len(line)} bytes, the worker reads lines of up to {self._limit}."
            raise RequestError(message, code=LINE_TOO_LONG)
        self._inboxes[inbox.request_id] = inbox
        if timeout_ms is not None:
            inbox.timer = self._loop.call_later(timeout_ms / 1000 + OVERDUE_S, self._overdue, inbox)
        self._process.write(line)
        return inbox

    def grant(self, inbox: Inbox, n: int) -> None:
        """Let the worker send ``n`` more chunks."""
        self._process.write(b'{"command":"credit","args":{"target":%d,"n":%d}}\n' % (inbox.request_id, n))

    def cancel(self, inbox: Inbox, error: RequestError | None = None) -> None:
        """End a request here and, in its own time, in the worker."""
        if self._inboxes.pop(inbox.request_id, None) is None:
            return
        self._process.write(b'{"command":"cancel","args":{"target":%d}}\n' % inbox.request_id)
        inbox.end(error or RequestError("The request was cancelled.", code=CANCELLED))

    def _answer(self, inbox: Inbox, call_id: str, answer: Mapping[str, Any]) -> None:
        if inbox.ended:
            return
        args = {"target": inbox.request_id, "call_id": call_id, **answer}
        line = _encode({"command": "tool_result", "args": args}) + b"\n"
        if len(line) > self._limit:
            raise ValueError(f"it has {len(line)} bytes, up to {self._limit} can be sent")
        self._process.write(line)

    def _overdue(self, inbox: Inbox) -> None:
        message = "The worker did not answer in time."
        self.cancel(inbox, RequestError(message, code=DEADLINE_EXCEEDED, retryable=True))
        if self._replaceable:
            self._break(WorkerDied("The worker was taken for hung and killed."))

    async def _run_tool(self, inbox: Inbox, call: Chunk) -> None:
        call_id = call["call_id"]
        try:
            tool = inbox.tools.get(call["name"])
            if tool is None:
                raise ToolFailed(f"The host has no tool named {call['name']!r}.")
            value = await tool.run(call.get("args") or {})
            try:
                self._answer(inbox, call_id, {"value": value})
            except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
                raise ToolFailed(f"What the tool gave can not be sent as JSON: {error}") from None
        except ToolFailed as error:
            self._answer(inbox, call_id, {"error": str(error).encode(errors="replace").decode()})

    # ---- what comes back -----------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        find, decode, kind_of = self._inboxes.get, _decode, KINDS.get
        try:
            for line in self._decoder.feed(data):
                fields = decode(line)  # type: ignore[arg-type]  # Oversized is a violation, too
                inbox = find(fields["id"])
                if inbox is None:
                    self._unbound(fields)
                    continue
                if fields["seq"] != inbox.next_seq:
                    raise ValueError(f"chunk {fields['seq']} came where {inbox.next_seq} was due")
                inbox.next_seq += 1
                kind = fields["type"]
                chunk = kind_of(kind, Chunk)(fields)
                if "done" in fields and fields["done"] is True:
                    self._done(inbox, chunk)
                    continue
                inbox.chunks.append(chunk)
                if inbox.waiter is not None:
                    inbox.wake()
                if kind == "tool_call" and fields.get("host"):
                    inbox.run(self._run_tool(inbox, chunk))
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError) as error:
            self._violation(line, error)

    def _done(self, inbox: Inbox, chunk: Chunk) -> None:
        del self._inboxes[inbox.request_id]
        if chunk["type"] not in ("error", CANCELLED):
            self.useful = True
            inbox.chunks.append(chunk)
            inbox.end()
            return
        error = from_chunk(chunk)
        if self.closed and chunk.get("reason") == "shutdown":  # the grace was over there a moment sooner
            error = ClientClosed(_CLOSED)
        if error.code == SHUTTING_DOWN:  # said to what comes after a recycling worker's limit
            self.recycles = True
            self._leave()
        inbox.end(error)

    def _unbound(self, fields: dict[str, Any]) -> None:
        """A chunk of no request (or of one that has been cancelled: those are dropped)."""
        kind = fields["type"]
        if not self.ready and not self._started.done():
            if kind != "ready":
                raise ValueError(f"its first chunk is {str(kind)[:100]!r}, not 'ready'")
            self._started.set_result(Chunk(fields))
        elif fields["id"] is None and kind == "bye":
            self.recycles = self._said_bye = True
            self._leave()
        elif fields["id"] is None and kind == "error":
            _log.warning("the worker could not use a line: %s", fields.get("error"))

    def _violation(self, line: bytes | Oversized, error: Exception) -> None:
        begin = line[:100].decode(errors="replace") if isinstance(line, bytes) else repr(line)
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        if not self._started.done():
            self._fail_start(StartFailed(f"The worker's first line is no 'ready': {begin!r}."))
            return
        self._break(ProtocolError(f"The worker wrote a line that is no chunk ({reason}): {begin!r}."))

    def _break(self, error: RequestError) -> None:
        """Nothing good can come from this worker any more."""
        self._broken = self._broken or error
        self._fail_all(error)
        self._leave()
        self._process.kill()

    def _on_end(self, code: int | None) -> None:
        if self.gone.done():
            return
        words, details = how_it_ended(code)
        self.end = words
        if not self._started.done():
            self._fail_start(StartFailed(f"The worker {words} before it was ready.", details=details))
        self._leave()
        self.gone.set_result(None)
        if self._said_bye:  # it had finished all it took; what came later was never begun
            message = "The worker was ending and did not take the request."
            refused = RequestError(message, code=SHUTTING_DOWN, retryable=True)
            self._fail_all(refused, lambda inbox: inbox.next_seq == 0)
        self._fail_all(WorkerDied(f"The worker {words} before it had answered.", details=details))
        if code is None:  # its output is closed; it may need a moment to leave
            self._loop.call_later(LEAVE_S, self._process.kill)

    def _fail_start(self, error: StartFailed) -> None:
        self._started.set_exception(error)
        self._started.exception()  # it may be that nobody waits for it any more

    def _leave(self) -> None:
        if not self.leaving.done():
            self.leaving.set_result(None)

    def _fail_all(self, error: RequestError, whom: Callable[[Inbox], bool] = lambda _: True) -> None:
        for inbox in list(filter(whom, self._inboxes.values())):
            del self._inboxes[inbox.request_id]
            inbox.end(error.again())


def _why(error: OSError | ValueError, program: str) -> str:
    """Why a process could not be started: the program, or the folder it was to start in."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    named = error.filename
    if isinstance(named, (str, os.PathLike)) and os.path.basename(os.fspath(named)) != program:
        return f"{error.strerror}: {os.fspath(named)}"
    return error.strerror
