"""Language model providers on the loopback interface: OpenAI, Anthropic, Gemini and Ollama over HTTP and SSE.

    with Provider() as provider:
        provider.replies(lambda request: Reply("[[ ## answer ## ]]\\n42\\n\\n[[ ## completed ## ]]"))
        ... LmSpec(model="openai/gpt-4o-mini", api_base=provider.url, api_key="sk-test-0123456789abcdef") ...
        assert provider.requests[0].headers["authorization"] == "Bearer sk-test-0123456789abcdef"

The path of a request says whose format it is in; :meth:`Provider.address` has the ``api_base`` of each. The
server runs in a thread of its own, on an ephemeral port, with the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.provider_formats import OLLAMA_ROOT, TOKENS, format_of
from tests.support.provider_http import Chunked, Reader, head, is_set
from tests.support.provider_replies import (
    BAD_REQUEST,
    CONTEXT_LENGTH,
    NOT_FOUND,
    QUOTA,
    SERVER_ERROR,
    UNAUTHORIZED,
    UNAVAILABLE,
    Reply,
    failure,
    rate_limit,
)
from tests.support.provider_requests import Recorded

__all__ = [
    "BAD_REQUEST",
    "CONTEXT_LENGTH",
    "MODELS",
    "NOT_FOUND",
    "QUOTA",
    "SERVER_ERROR",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "WAIT_S",
    "Answer",
    "Provider",
    "Recorded",
    "Reply",
    "echo",
    "failure",
    "formatted",
    "rate_limit",
]

WAIT_S = 20.0


#: A model of each provider, with native function calling by DSPy's tables: a parametrization.
MODELS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "ollama_chat": "ollama_chat/llama3.1",
}

Answer = Callable[[Recorded], Reply]


def echo(request: Recorded) -> Reply:
    """The first input's value in every output field an adapter asks for, in its format."""
    body, found, ask = request.user.rpartition("Respond with ")
    if not found:
        return Reply(request.user)
    xml = "wrapped in XML tags" in ask
    match = re.search(
        r"<\w+>\n(.*?)\n</" if xml else r"\[\[ ## \w+ ## \]\]\n(.*?)(?:\n\n|$)", body, re.DOTALL
    )
    value = match.group(1) if match else ""
    return Reply(formatted(ask, value))


def formatted(ask: str, value: str) -> str:
    """``value`` for each of the output fields that ``ask``, the end of a prompt, names."""
    if "a JSON object" in ask:
        return json.dumps(dict.fromkeys(re.findall(r"`(\w+)`", ask), value))
    if "wrapped in XML tags" in ask:
        return "\n".join(f"<{name}>{value}</{name}>" for name in re.findall(r"`<(\w+)>`", ask))
    names = [name for name in re.findall(r"`\[\[ ## (\w+) ## \]\]`", ask) if name != "completed"]
    return "\n\n".join([f"[[ ## {name} ## ]]\n{value}" for name in names] + ["[[ ## completed ## ]]"])


class Provider:
    """The server. ``requests``, ``open_connections`` and ``most_at_once`` may be read at any time."""

    def __init__(self, answer: Answer = echo) -> None:
        self.requests: list[Recorded] = []
        self.open_connections = 0
        self.connections = 0
        self.at_once = 0
        self.most_at_once = 0
        self._answer = answer
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="provider", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gates: dict[threading.Event, asyncio.Task[None]] = {}
        self.port = 0

    @property
    def url(self) -> str:
        """What to pass as ``api_base`` for OpenAI's models."""
        return self.address("openai")

    def address(self, provider: str) -> str:
        """What to pass as ``api_base`` for the models of a provider, by DSPy's own engine."""
        root = f"http://127.0.0.1:{self.port}"
        match provider:
            case "openai" | "anthropic":
                return f"{root}/v1"
            case "gemini":
                return f"{root}/v1beta"
            case "ollama" | "ollama_chat":
                return f"{root}{OLLAMA_ROOT}/v1"
        raise ValueError(f"no address for {provider!r}")

    def replies(self, answer: Answer | Reply) -> None:
        """Answer with ``answer(request)``, or always the same, from now on."""
        self._answer = (lambda request: answer) if isinstance(answer, Reply) else answer

    def wait_for(self, true: Callable[[Provider], bool], timeout_s: float = WAIT_S) -> None:
        """Block until ``true(self)``.

        Raises:
            TimeoutError: it did not become true in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: true(self), timeout_s):
                raise TimeoutError(f"{len(self.requests)} requests, {self.open_connections} open connections")

    def __enter__(self) -> Provider:
        self._thread.start()
        self._started.wait(WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set()
        self._loop.run_forever()
        tasks = [*self._tasks, *self._gates.values()]
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        assert self._server is not None
        self._server.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _listen(self) -> None:
        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(Reader(loop=self._loop), self._accept, loop=self._loop)

        self._server = await self._loop.create_server(protocol, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, Reader)
        task = self._loop.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        self._count(1)
        try:
            while (request := await self._read(reader)) is not None:
                self._busy(1)
                try:
                    alive = await self._or_gone(reader, self._serve(request, writer))
                finally:
                    self._busy(-1)
                if not alive:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._count(-1)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _or_gone(self, reader: Reader, serving: Any) -> bool:
        """Serve until done or until the client has closed the connection; whether it goes on."""
        task = asyncio.ensure_future(serving)
        gone = asyncio.ensure_future(reader.gone.wait())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            return bool(task.result()) if task.done() else False
        finally:
            for each in (task, gone):
                each.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> Recorded | None:
        head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
        if not head:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        try:
            body: Any = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        with self._changed:
            request = Recorded(len(self.requests), method, path, headers, body, raw)
            self.requests.append(request)
            self._changed.notify_all()
        return request

    async def _serve(self, request: Recorded, writer: asyncio.StreamWriter) -> bool:
        reply = self._answer(request)
        await asyncio.sleep(reply.delay_s)
        if reply.hang:
            await asyncio.Event().wait()
        if request.streamed and reply.error is None and reply.raw is None:
            return await self._stream(request, reply, writer)
        if reply.gate is not None:
            await self._opened(reply.gate)
        body = reply.raw
        if body is None:
            form = format_of(request.path)
            body = json.dumps(
                form.body(request, reply) if reply.error is None else form.error(reply)
            ).encode()
        writer.write(head(request, reply, "application/json", f"Content-Length: {len(body)}"))
        writer.write(body if reply.cut_after is None else body[: reply.cut_after])
        await writer.drain()
        return reply.cut_after is None

    async def _stream(self, request: Recorded, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        """Send the events: each token when it is due, what need not wait in as few writes as may be."""
        events = list(format_of(request.path).events(request, reply))
        out = Chunked(writer, reply.cut_after)
        writer.write(head(request, reply, "text/event-stream", "Transfer-Encoding: chunked"))
        start, tokens, texts, gate = self._loop.time(), 0, 0, reply.gate
        for kind, data in events:
            if kind != "frame" and tokens == reply.hang_after_tokens:
                await out.flush()
                await asyncio.Event().wait()
            if gate is not None and kind in ("text", "call", "end") and texts >= (reply.gate_after or 0):
                await out.flush()
                shut = self._loop.time()
                await self._opened(gate)
                start, gate = start + self._loop.time() - shut, None
            paced = bool(reply.token_delay_s) and kind in TOKENS
            if paced:
                # Due by the schedule, whatever the tokens before took: a busy server does not slow down.
                wait = start + (tokens + 1) * reply.token_delay_s - self._loop.time()
                if wait > 0:
                    await out.flush()
                    await asyncio.sleep(wait)
            if not out.add(data):
                await out.flush()
                return False
            tokens += kind in TOKENS
            texts += kind == "text"
            if paced or out.full:
                await out.flush()
        await out.end()
        return True

    async def _opened(self, gate: threading.Event) -> None:
        """Wait for an event of threads, looking once for all the requests that wait for the same."""
        looking = self._gates.get(gate)
        if looking is None or looking.done():
            looking = self._gates[gate] = self._loop.create_task(is_set(gate))
        await asyncio.shield(looking)

    def _count(self, change: int) -> None:
        with self._changed:
            self.open_connections += change
            self.connections += max(change, 0)
            self._changed.notify_all()

    def _busy(self, change: int) -> None:
        with self._changed:
            self.at_once += change
            self.most_at_once = max(self.most_at_once, self.at_once)
            self._changed.notify_all()
