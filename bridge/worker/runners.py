"""Running one request's handler: as a task on the loop, or in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from bridge.context import Context, WorkerView
from bridge.errors import BridgeError, Code
from bridge.registry import Command, Kind
from bridge.wire.messages import is_final
from bridge.wire.session import Stream
from bridge.wire.sessions import overloaded
from bridge.wire.way import LOOK
from bridge.worker.outbox import FLUSH_BYTES, Outbox
from bridge.worker.threads import HandlerThreads, ThreadChannel

#: How often a stream looks whether the host has written before it gives the loop back all the same (after
#: 256 chunks). Looking is a poll(2), which costs a microsecond; a ping beside a flood waits for no full turn.
LOOKS: Final = 256 // LOOK


class Home(Protocol):
    """What a runner needs of the scheduler."""

    loop: asyncio.AbstractEventLoop
    outbox: Outbox
    threads: HandlerThreads
    view: WorkerView
    input_waits: Callable[[], bool]

    def finish(self, stream: Stream, payload: Any) -> None:
        """End a request with its terminal payload."""

    def failed(self, stream: Stream, error: BaseException) -> None:
        """End a request with what its handler raised."""

    def abandoned(self, change: int) -> None:
        """A thread that can not be stopped was given up (1), or has ended after all (-1)."""


class Runner(Protocol):
    """A running request."""

    def start(self) -> None:
        """Begin. Errors end the request."""

    def grant(self, count: int | None) -> None:
        """More credit; None lifts the bound."""

    def end(self, finish: Callable[[], None]) -> None:
        """Call ``finish``, which writes the terminal chunk, and stop the handler."""

    def answer(self, call_id: str, outcome: Any) -> None:
        """Hand a host's answer (a value or a BridgeError) to the call that waits for it."""

    def close_calls(self, error: BridgeError) -> None:
        """The host can answer nothing any more: open and later calls fail with ``error``."""


def make_runner(home: Home, command: Command, stream: Stream) -> Runner:
    """The runner for the kind of handler ``command`` has."""
    kind = ThreadRunner if command.kind.threaded else AsyncRunner
    return kind(home, command, stream)


def result_payload(value: Any) -> Any:
    """The terminal chunk of a command that gives one answer."""
    if is_final(value):
        return value
    if isinstance(value, Mapping):
        return {"type": "result", **value}
    return {"type": "result"} if value is None else {"type": "result", "value": value}


class _NoHost:
    """Stands where an asynchronous handler has its host: the others give their answers by returning."""

    async def emit(self, chunk: Any) -> None:
        raise RuntimeError("only asynchronous handlers can emit; yield the chunk instead")

    async def ask(self, chunk: Mapping[str, Any], timeout_s: float | None) -> Any:
        raise RuntimeError("only asynchronous handlers can ask their host")


NO_HOST: Final = _NoHost()


class AsyncRunner:
    """An async generator or function, as one task."""

    def __init__(self, home: Home, command: Command, stream: Stream) -> None:
        self._home = home
        self._command = command
        self._stream = stream
        self._task: asyncio.Task[None] | None = None
        self._starving: list[asyncio.Future[None]] = []
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._no_answers: BridgeError | None = None
        self._looks = LOOKS

    def start(self) -> None:
        self._task = self._home.loop.create_task(self._run())

    def grant(self, count: int | None) -> None:
        if count is None:
            self._stream.credit = None
        else:
            self._stream.grant(count)
        self._wake_starving()

    def _wake_starving(self) -> None:
        starving, self._starving = self._starving, []
        for waiter in starving:
            if not waiter.done():
                waiter.set_result(None)

    def end(self, finish: Callable[[], None]) -> None:
        finish()
        self._wake_starving()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def answer(self, call_id: str, outcome: Any) -> None:
        if (waiting := self._answers.pop(call_id, None)) is not None and not waiting.done():
            waiting.set_result(outcome)

    def close_calls(self, error: BridgeError) -> None:
        """The host can answer nothing any more: open and later calls fail with ``error``."""
        self._no_answers = error
        for call_id in list(self._answers):
            self.answer(call_id, error)

    async def emit(self, payload: Any) -> None:
        stream, outbox = self._stream, self._home.outbox
        if outbox.full or (stream.credit is not None and stream.credit <= 0):
            await self.clear_way()
        if stream.chunk(payload, outbox.buffer) >= FLUSH_BYTES or not outbox.scheduled:
            outbox.touch()

    async def ask(self, chunk: Mapping[str, Any], timeout_s: float | None) -> Any:
        if self._no_answers is not None:
            raise self._no_answers
        call_id = chunk.get("call_id") or self._stream.calls.issue()
        self._stream.calls.reopen(call_id)
        answer = self._answers[call_id] = self._home.loop.create_future()
        try:
            await self.emit({**chunk, "call_id": call_id})
            async with asyncio.timeout(timeout_s):
                outcome = await answer
        except TimeoutError:
            message = f"The host did not answer the call {call_id} within {timeout_s:g} s."
            raise BridgeError(message, code=Code.TOOL_TIMEOUT, details={"call_id": call_id}) from None
        finally:
            self._answers.pop(call_id, None)
            self._stream.calls.drop(call_id)
        if isinstance(outcome, BridgeError):
            raise outcome
        return outcome

    async def _run(self) -> None:
        # Every call in here is a frame that each of the handler's awaits goes through: there are few.
        payload: Any
        try:
            args = self._stream.take_args(self._command.args_type)
            answer = self._command.call(args, Context(self._stream, self._home.view, self))
            if self._command.kind is Kind.ASYNC_STREAM:
                try:
                    payload = await self._stream.send_all(answer, self._home.outbox, self)
                finally:
                    await answer.aclose()
                if payload is None:
                    payload = {"type": "complete"}
            else:
                payload = result_payload(await answer)
        except BaseException as error:  # noqa: BLE001 - a SystemExit too ends its request, not the worker
            payload = error
        await self._end_with(payload)

    async def _end_with(self, payload: Any) -> None:
        """End the request with a payload, or with what the handler raised."""
        try:
            # The terminal chunk needs no credit, but it too waits for a host that reads.
            while self._home.outbox.full and not self._stream.done:
                await self._home.outbox.room()
            if isinstance(payload, BaseException):
                self._home.failed(self._stream, payload)
            else:
                self._home.finish(self._stream, payload)
        except asyncio.CancelledError:
            pass  # ended from outside
        finally:
            self._wake_starving()

    async def clear_way(self) -> None:
        """Wait for credit, and for a host that reads."""
        while not self._stream.done and (self._stream.starved or self._home.outbox.full):
            if self._home.outbox.full:
                await self._home.outbox.room()
            else:
                granted = self._home.loop.create_future()
                self._starving.append(granted)
                await granted

    async def look(self) -> None:
        """Give the loop back if the host has written, or if this stream has had its turn."""
        self._looks -= 1
        if not self._looks or self._home.input_waits():
            self._looks = LOOKS
            await asyncio.sleep(0)


class ThreadRunner:
    """A generator or function, in a thread; cancelled between its yields."""

    def __init__(self, home: Home, command: Command, stream: Stream) -> None:
        self._home = home
        self._command = command
        self._stream = stream
        self._channel = ThreadChannel(home.loop, home.outbox, stream, home.threads)
        self._abandoned = False
        self._running = False

    def start(self) -> None:
        try:
            args = self._stream.take_args(self._command.args_type)
            context = contextvars.copy_context()
            self._home.threads.submit(lambda: context.run(self._run, args))
        except RuntimeError as error:
            self._end_with(
                overloaded(f"no thread can be started ({error})", "threads", threading.active_count())
            )
        except Exception as error:  # noqa: BLE001 - args run code of their Struct's own
            self._end_with(error)
        else:
            self._running = True
            self._home.threads.count(1)

    def grant(self, count: int | None) -> None:
        self._channel.grant(count)

    def end(self, finish: Callable[[], None]) -> None:
        self._channel.close(finish)
        if self._running:
            self._abandoned = True
            self._home.abandoned(1)

    def answer(self, call_id: str, outcome: Any) -> None:
        """Handlers in threads have no way to ask their host."""

    def close_calls(self, error: BridgeError) -> None:
        """Nor do they wait for an answer."""

    def _run(self, args: Any) -> None:
        """The thread's part: run the handler to its end, then tell the loop."""
        outcome: Any
        try:
            answer = self._command.call(args, Context(self._stream, self._home.view, NO_HOST))
            if self._command.kind is Kind.SYNC_STREAM:
                outcome = self._send_all(answer)
            else:
                outcome = result_payload(answer)
        except BaseException as error:  # noqa: BLE001 - told to the host by the loop
            outcome = error
        self._home.loop.call_soon_threadsafe(self._ended, outcome)

    def _send_all(self, chunks: Any) -> Any:
        try:
            last = self._channel.send(chunks, is_final)
        finally:
            chunks.close()
        return {"type": "complete"} if last is None else last

    def _ended(self, outcome: Any) -> None:
        self._running = False
        self._home.threads.count(-1)
        if self._abandoned:
            self._home.abandoned(-1)
        else:
            self._end_with(outcome)

    def _end_with(self, outcome: Any) -> None:
        """End the request, as soon as there is room for its last chunk."""
        if self._stream.done:
            return
        if self._home.outbox.full:
            self._home.outbox.when_room(lambda: self._end_with(outcome))
        elif isinstance(outcome, BaseException):
            self._channel.close(lambda: self._home.failed(self._stream, outcome))
        else:
            self._channel.close(lambda: self._home.finish(self._stream, outcome))
