"""A language model provider on the loopback interface: OpenAI's chat completions over HTTP, JSON and SSE.

    with Provider() as provider:
        provider.replies(lambda request: Reply("[[ ## answer ## ]]\\n42\\n\\n[[ ## completed ## ]]"))
        ... LmSpec(model="openai/gpt-4o-mini", api_base=provider.url, api_key="sk-test-0123456789abcdef") ...
        assert provider.requests[0].headers["authorization"] == "Bearer sk-test-0123456789abcdef"

It runs in a thread of its own, on an ephemeral port, with the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any

WAIT_S = 20.0


@dataclass
class Recorded:
    """A request as it came: header names in lower case, the body decoded if it is JSON."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def user(self) -> str:
        """The text of the last user message."""
        messages = self.body.get("messages", []) if isinstance(self.body, dict) else []
        content = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


@dataclass
class Reply:
    """What to do with a request. Times in seconds; ``cut_after``: bytes of the body before the line dies."""

    text: str = ""
    status: int = 200
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang: bool = False
    cut_after: int | None = None
    token_delay_s: float = 0.0
    hang_after_tokens: int | None = None
    usage: tuple[int, int] = (11, 7)
    reasoning: str | None = None
    raw: bytes | None = None


Answer = Callable[[Recorded], Reply]


def failure(status: int, message: str = "No.", *, code: str | None = None, **settings: Any) -> Reply:
    """An error in OpenAI's shape."""
    return Reply(status=status, error={"message": message, "type": "error", "code": code}, **settings)


UNAUTHORIZED = failure(401, "Incorrect API key provided.", code="invalid_api_key")
QUOTA = failure(429, "You exceeded your current quota.", code="insufficient_quota")
CONTEXT_LENGTH = failure(
    400, "This model's maximum context length is 10 tokens.", code="context_length_exceeded"
)
BAD_REQUEST = failure(400, "Unsupported value.", code="invalid_value")
NOT_FOUND = failure(404, "The model `nope` does not exist.", code="model_not_found")
SERVER_ERROR = failure(500, "The server had an error.")
UNAVAILABLE = failure(503, "Overloaded.")


def rate_limit(retry_after: str) -> Reply:
    """429 with a ``Retry-After`` header."""
    return failure(429, "Slow down.", code="rate_limit_exceeded", headers={"Retry-After": retry_after})


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
        self.port = 0

    @property
    def url(self) -> str:
        """What to pass as ``api_base``."""
        return f"http://127.0.0.1:{self.port}/v1"

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
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        assert self._server is not None
        self._server.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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

    async def _or_gone(self, reader: asyncio.StreamReader, serving: Any) -> bool:
        """Serve until done or until the client has closed the connection; whether it goes on."""
        task = asyncio.ensure_future(serving)
        gone = asyncio.ensure_future(_closed(reader))
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
            request = Recorded(len(self.requests), method, path, headers, body)
            self.requests.append(request)
            self._changed.notify_all()
        return request

    async def _serve(self, request: Recorded, writer: asyncio.StreamWriter) -> bool:
        reply = self._answer(request)
        await asyncio.sleep(reply.delay_s)
        if reply.hang:
            await asyncio.Event().wait()
        streamed = isinstance(request.body, dict) and request.body.get("stream") and reply.error is None
        if streamed and reply.raw is None:
            return await self._stream(request, reply, writer)
        body = reply.raw if reply.raw is not None else json.dumps(_body(request, reply)).encode()
        writer.write(_head(reply, "application/json", f"Content-Length: {len(body)}"))
        writer.write(body if reply.cut_after is None else body[: reply.cut_after])
        await writer.drain()
        return reply.cut_after is None

    async def _stream(self, request: Recorded, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        writer.write(_head(reply, "text/event-stream", "Connection: close"))
        sent = 0
        for number, event in enumerate(_events(request, reply)):
            data = f"data: {event}\n\n".encode()
            if reply.cut_after is not None and sent + len(data) > reply.cut_after:
                return False
            if reply.hang_after_tokens is not None and number > reply.hang_after_tokens:
                await asyncio.Event().wait()
            sent += len(data)
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(reply.token_delay_s)
        return False

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


async def _closed(reader: asyncio.StreamReader) -> None:
    """Return when the peer has closed. The stream's buffer is left alone: it may hold the next request."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - a StreamReader tells nobody
        await asyncio.sleep(0.005)


def _head(reply: Reply, kind: str, framing: str) -> bytes:
    reason = HTTPStatus(reply.status).phrase
    extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    start = f"HTTP/1.1 {reply.status} {reason}\r\nContent-Type: {kind}\r\nx-request-id: req-test\r\n"
    return f"{start}{framing}\r\n{extra}\r\n".encode("latin-1")


def _usage(reply: Reply) -> dict[str, int]:
    inputs, outputs = reply.usage
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}


def _frame(request: Recorded, kind: str) -> dict[str, Any]:
    model = request.body.get("model", "?") if isinstance(request.body, dict) else "?"
    return {"id": f"chatcmpl-{request.number}", "object": kind, "created": 1, "model": model}


def _body(request: Recorded, reply: Reply) -> dict[str, Any]:
    if reply.error is not None:
        return {"error": reply.error}
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {**_frame(request, "chat.completion"), "choices": choices, "usage": _usage(reply)}


def _events(request: Recorded, reply: Reply) -> list[str]:
    frame = _frame(request, "chat.completion.chunk")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": token} for token in re.findall(r"\s*\S+|\s+", reply.reasoning or "")]
    deltas += [{"content": token} for token in re.findall(r"\s*\S+|\s+", reply.text)]
    events: list[Any] = [
        {**frame, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas
    ]
    events.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append({**frame, "choices": [], "usage": _usage(reply)})
    return [*map(json.dumps, events), "[DONE]"]
