"""The floors, each a process of its own that does the same work without a worker around it.

``python -m tests.benchmarks.floors NAME [TEXT]`` reads a line from stdin for each round and writes lines.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
import time
from typing import Any

import orjson

from tests.benchmarks.payloads import TEXTS

BLOCK = 64 * 1024
_PONG = b'{"id":"p","seq":0,"type":"pong","done":true}\n'


def loop(text: str) -> None:
    """Per round ``N``: N chunks built, encoded, joined and written 64 KB at a time."""
    for line in sys.stdin.buffer:
        parts: list[bytes] = []
        size = 0
        for seq in range(int(line)):
            chunk = orjson.dumps({"id": "r1", "seq": seq, "type": "chunk", "text": text}) + b"\n"
            parts.append(chunk)
            size += len(chunk)
            if size >= BLOCK:
                _write(b"".join(parts))
                parts.clear()
                size = 0
        _write(b"".join(parts))


def flood(text: str) -> None:
    """The loop without an end, which looks for a line on stdin every 256 chunks and answers it."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    seq = 0
    while True:
        buffer = bytearray()
        for _ in range(256):
            buffer += orjson.dumps({"id": "r1", "seq": seq, "type": "chunk", "text": text}) + b"\n"
            seq += 1
        _write(buffer)
        if poll.poll(0):
            if not os.read(0, BLOCK):
                return
            _write(_PONG)


def tasks(text: str) -> None:
    """Per round ``STREAMS CHUNKS PERIOD TIMETABLE``: asyncio tasks, one shared buffer, a write a tick."""
    for line in sys.stdin.buffer:
        streams, chunks, period, timetable = line.split()
        asyncio.run(_Tasks(text, float(period), timetable == b"1").run(int(streams), int(chunks)))


class _Tasks:
    def __init__(self, text: str, period: float, timetable: bool) -> None:
        self._text = text
        self._period = period
        self._timetable = timetable
        self._buffer = bytearray()
        self._scheduled = False

    async def run(self, streams: int, chunks: int) -> None:
        """All streams, side by side."""
        await asyncio.gather(*(self._stream(number, chunks) for number in range(streams)))
        self._flush()

    async def _stream(self, number: int, chunks: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for seq in range(chunks):
            if self._period:
                due += self._period
                await asyncio.sleep(max(0.0, due - loop.time()) if self._timetable else self._period)
            chunk = {"id": number, "seq": seq, "type": "chunk", "text": self._text}
            self._buffer += orjson.dumps(chunk) + b"\n"
            if len(self._buffer) >= BLOCK:
                self._flush()
            elif not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._tick)
            if not self._period:
                await asyncio.sleep(0)

    def _tick(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        buffer, self._buffer = self._buffer, bytearray()
        _write(buffer)


def batch(engine: str) -> None:
    """Per round ``ITEMS CONCURRENCY``: predictions with DSPy as it comes; answers with the seconds."""
    import dspy

    lm = _lm(engine)
    dspy.configure(lm=lm)
    predict = dspy.Predict("text -> completion")
    _write(b"ready\n")
    for line in sys.stdin.buffer:
        items, concurrency = map(int, line.split())
        _write(b"%.6f\n" % asyncio.run(_gather(predict, items, concurrency)))


def _lm(engine: str) -> object:
    import dspy

    from tests.benchmarks.engine import AsyncInstantEngine, InstantEngine

    if engine == "scripted":
        from bridge.dspy_runtime.scripted import AsyncScriptedEngine, ScriptedEngine

        scripted = ScriptedEngine([])
        return dspy.LM("scripted", engine=scripted, async_engine=AsyncScriptedEngine(scripted), cache=False)
    return dspy.LM("scripted", engine=InstantEngine(), async_engine=AsyncInstantEngine(), cache=False)


async def _gather(predict: Any, items: int, concurrency: int) -> float:
    slots = asyncio.Semaphore(concurrency)

    async def one(number: int) -> object:
        async with slots:
            return await predict.acall(text=f"The capital of country {number} is")

    started = time.perf_counter()
    answers = await asyncio.gather(*(one(number) for number in range(items)))
    elapsed = time.perf_counter() - started
    assert len(answers) == items
    return elapsed


def answer(_: str) -> None:
    """Import DSPy, predict once, say so."""
    import dspy

    dspy.configure(lm=_lm("scripted"))
    asyncio.run(_gather(dspy.Predict("text -> completion"), 1, 1))
    _write(b"answered\n")
    sys.stdin.read()


def relay(_: str) -> None:
    """Write what stdin brings to stdout, by asyncio's callbacks."""
    loop = asyncio.new_event_loop()

    def copy() -> None:
        if data := os.read(0, BLOCK):
            os.write(1, data)
        else:
            loop.stop()

    loop.add_reader(0, copy)
    loop.run_forever()


def fork(_: str) -> None:
    """Import DSPy and fork; per line of stdin kill the child, wait for it, fork another and hear of it.

    Answers with the seconds: it is what a replacement takes with nothing around it.
    """
    import dspy  # noqa: F401 - for its size

    gc.collect()
    gc.freeze()
    pipes = os.pipe(), os.pipe()
    child = _forked(*pipes)
    _write(b"ready\n")
    for _line in sys.stdin.buffer:
        started = time.perf_counter()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        child = _forked(*pipes)
        _write(b"%.6f\n" % (time.perf_counter() - started))
    os.kill(child, signal.SIGKILL)


def _forked(words: tuple[int, int], lives: tuple[int, int]) -> int:
    """A child that says a word on the one pipe and lives as long as this process holds the other."""
    pid = os.fork()
    if not pid:
        os.close(lives[1])
        os.write(words[1], b".")
        os.read(lives[0], 1)
        os._exit(0)
    os.read(words[0], 1)
    return pid


def idle(modules: str) -> None:
    """Import ``modules`` (comma-separated), say so, and wait for the end of stdin."""
    for module in modules.split(","):
        __import__(module)
    _write(b"ready\n")
    sys.stdin.read()


def sse(port: str) -> None:
    """Read streams of the model at ``port`` as plainly as asyncio can and write a line for each token.

    A line of stdin says how many streams, of how many tokens, how many milliseconds apart.
    """
    for line in sys.stdin:
        streams, tokens, period = line.split()
        asyncio.run(_read_streams(int(port), int(streams), f"pace {tokens} {period}", float(period) / 1000))


async def _read_streams(port: int, streams: int, prompt: str, gap_s: float) -> None:
    tasks = []
    for number in range(streams):
        tasks.append(asyncio.create_task(_read_stream(port, number, prompt)))
        await asyncio.sleep(gap_s)
    await asyncio.gather(*tasks)


async def _read_stream(port: int, number: int, prompt: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"stream": True, "messages": prompt}).encode()
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    async for event in reader:
        if event.startswith(b"data: {") and (choices := json.loads(event[6:])["choices"]):
            text = choices[0]["delta"].get("content", "")
            if text.startswith(" t"):
                _write(json.dumps({"id": number, "delta": text}, separators=(",", ":")).encode() + b"\n")
        elif event.startswith(b"data: [DONE]"):
            break
    writer.close()
    _write(b'{"id":%d,"done":true}\n' % number)


def dspy_streams(port: str) -> None:
    """DSPy's own streams of the model at ``port``, told to nobody. Lines of stdin as for :func:`sse`."""
    import dspy

    dspy.configure(trace=None, disable_history=True)
    base = f"http://127.0.0.1:{port}/v1"
    settings = {"engine": "lm15", "cache": False, "api_base": base, "api_key": "sk-no-key-at-all"}
    lms = [dspy.LM("openai/gpt-4o-mini", **settings) for _ in range(2)]  # 100 connections each
    _write(b"ready\n")
    asyncio.run(_dspy_streams(lms))


async def _dspy_streams(lms: list[Any]) -> None:
    import dspy

    class Sink:
        async def send(self, chunk: object) -> None:
            """Nobody hears it."""

    program = dspy.ChainOfThought("question -> answer")

    async def one(number: int, question: str) -> None:
        with dspy.context(lm=lms[number % len(lms)], send_stream=Sink(), stream_listeners=[]):
            await program.acall(question=question)

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        streams, tokens, period = line.split()
        await asyncio.gather(*(one(number, f"pace {tokens} {period}") for number in range(int(streams))))
        _write(b"done\n")


def _write(data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


FLOORS = {
    "loop": loop,
    "flood": flood,
    "tasks": tasks,
    "batch": batch,
    "answer": answer,
    "relay": relay,
    "fork": fork,
    "idle": idle,
    "sse": sse,
    "dspy": dspy_streams,
}

if __name__ == "__main__":
    name, *words = sys.argv[1:]
    word = words[0] if words else ""
    FLOORS[name](TEXTS.get(word, word))
