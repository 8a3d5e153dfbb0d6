"""The Python client as the shared tests drive it; tests/conformance/README.md says what a driver does."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from bridge.client import Client, Pool, RequestError, Stream

Fields = dict[str, Any]


def add(a: float, b: float) -> float:
    """The sum."""
    return a + b


def echo(value: Any) -> Any:
    """The value."""
    return value


def fail() -> None:
    """Fails."""
    raise ValueError("the tool failed")


async def hang() -> None:
    """Never returns."""
    await asyncio.Event().wait()


async def late(ms: float) -> str:
    """Returns after ``ms`` milliseconds."""
    await asyncio.sleep(ms / 1000)
    return "late"


TOOLS = {function.__name__: function for function in (add, echo, fail, hang, late)}


class Driver:
    """One client, and the operations that run on it."""

    def __init__(self) -> None:
        self._client: Client | Pool | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._counts: dict[str, int] = {}

    async def run(self) -> None:
        """Read operations until stdin ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**26)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            operation = json.loads(line)
            name, ref = operation.pop("op"), operation.pop("ref")
            if name in ("start", "stop"):
                await self._guarded(ref, getattr(self, name)(ref, **operation))
            elif name == "cancel":
                self._tasks[ref].cancel()
            else:
                self._spawn(ref, getattr(self, name)(ref, **operation))
        if self._client is not None:
            await self._client.close()

    def _spawn(self, ref: str, work: Coroutine[Any, Any, None]) -> None:
        self._counts[ref] = 0
        self._tasks[ref] = asyncio.create_task(self._guarded(ref, work))
        self._tasks[ref].add_done_callback(lambda _: self._tasks.pop(ref))

    async def _guarded(self, ref: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RequestError as error:
            failure = {"code": error.code, "error": error.message, "retryable": error.retryable}
            tell(ref, "failed", **failure, count=self._counts.get(ref, 0))
        except asyncio.CancelledError:
            tell(ref, "left", count=self._counts[ref])

    async def start(
        self, ref: str, argv: list[str], workers: int = 0, framing: str = "lines", ready_ms: int = 30_000
    ) -> None:
        assert framing == "lines"
        timeout = ready_ms / 1000
        if self._client is not None:
            await self._client.close()
        if workers:
            self._client = Pool(argv=argv, workers=workers, ready_timeout=timeout)
        else:
            self._client = Client(argv=argv, ready_timeout=timeout)
        await self._client.start()
        if isinstance(self._client, Pool):
            await self._client.wait_ready()
        tell(ref, "started")

    async def stop(self, ref: str, grace_ms: int = 5000) -> None:
        await self.client.close(grace=grace_ms / 1000)
        self._client = None
        tell(ref, "stopped")

    @property
    def client(self) -> Client | Pool:
        assert self._client is not None
        return self._client

    async def call(self, ref: str, command: str, args: Fields | None = None, **options: Any) -> None:
        tell(ref, "result", chunk=await self.client.call(command, args, **known(options)))

    async def stream(
        self,
        ref: str,
        command: str,
        args: Fields | None = None,
        report: str = "chunks",
        take: int | None = None,
        slow_every: int = 0,
        slow_ms: float = 0,
        **options: Any,
    ) -> None:
        begin = time.perf_counter()
        count, in_order, kind, counts = 0, True, "", self._counts
        stream: Stream = self.client.stream(command, args, **known(options))
        async for chunk in stream:
            kind = chunk["type"]
            if report == "chunks":
                tell(ref, "chunk", chunk=chunk)
            elif kind == "chunk" and chunk["n"] != count:
                in_order = False
            counts[ref] = count = count + 1
            if slow_every and count % slow_every == 0:
                await asyncio.sleep(slow_ms / 1000)
            if count == take:
                leaving = time.perf_counter()
                await stream.aclose()
                tell(ref, "left", count=count, ms=milliseconds(leaving))
                return
        tell(ref, "ended", count=count, in_order=in_order, ms=milliseconds(begin), type=kind)

    async def ping(self, ref: str, n: int, command: str = "ping", args: Fields | None = None) -> None:
        times = []
        for _ in range(n):
            begin = time.perf_counter()
            await self.client.call(command, args)
            times.append((time.perf_counter() - begin) * 1e6)
        times.sort()
        tell(ref, "pings", p50_us=times[n // 2], p99_us=times[n * 99 // 100])

    async def raw(self, ref: str, argv: list[str], line: str, framing: str = "lines") -> None:
        pipe = asyncio.subprocess.PIPE
        worker = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, limit=2**20)
        assert worker.stdin is not None
        assert worker.stdout is not None
        await worker.stdout.readline()
        begin = time.perf_counter()
        worker.stdin.write(line.encode() + b"\n")
        count, rest, done = 0, b"", False
        while not done:
            *lines, rest = (rest + await worker.stdout.read(2**18)).split(b"\n")
            for text in lines:
                count += 1
                done = "done" in json.loads(text)
        tell(ref, "raw", count=count, ms=milliseconds(begin))
        worker.stdin.close()
        await worker.wait()

    async def pids(self, ref: str) -> None:
        client = self.client
        pids = client.pids if isinstance(client, Pool) else [client.ready["pid"]] if client.usable else []
        tell(ref, "pids", pids=pids)


def known(options: Fields) -> Fields:
    """An operation's options as the client takes them."""
    if "timeout_ms" in options:
        options["timeout"] = options.pop("timeout_ms") / 1000
    if "tools" in options:
        options["tools"] = {name: TOOLS[name] for name in options["tools"]}
    return options


def milliseconds(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000


def tell(ref: str, event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"ref": ref, "event": event, **fields}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Driver().run())
