"""A worker that plays a part: it does what a case's script says and holds the client against it.

``python -m tests.conformance.player FILE NAME DIR [--framing packet4]``. FILE is a file of cases, NAME a case
in it; the fifo ``DIR/report`` gets a line of JSON for whatever happens. Started by its path it works from any
directory. It imports the standard library only, and little of it: a start takes some 30 ms. See README.md.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable
from typing import Any, NoReturn

if not __package__:  # started by its path
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.conformance.client_checks import Checker, Message, Mismatch
from tests.conformance.filling import filled
from tests.conformance.patterns import mismatch

Step = dict[str, Any]
#: Seconds that a step may wait for the client, and that a player lives at the most.
PATIENCE = 10.0
LIFETIME = 60
#: The longest line that a fifo takes as a whole.
REPORT_BYTES = 4096


class Pipes:
    """The player's end of stdin and stdout, framed."""

    def __init__(self, framing: str) -> None:
        self._packet4 = framing == "packet4"
        self._rest = b""
        self.ended = False

    def frame(self, text: bytes) -> bytes:
        """One JSON text as it goes out."""
        return len(text).to_bytes(4, "big") + text if self._packet4 else text + b"\n"

    def write(self, data: bytes) -> None:
        """All of ``data``, waiting for a client that is slow to read."""
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def drain(self, deadline: float) -> None:
        """Wait until the client has taken all that was written."""
        # A pipe tells what is in it, a socket (Node's pipes are such) what its other end has not read.
        for request in (termios.FIONREAD, termios.TIOCOUTQ):
            with contextlib.suppress(OSError):
                while int.from_bytes(fcntl.ioctl(1, request, b"\0" * 4), sys.byteorder):
                    if time.monotonic() > deadline:
                        raise Mismatch("the client does not read")
                    time.sleep(0.0002)  # no event tells that the other end has read

    def read(self, deadline: float) -> list[bytes]:
        """The texts that have come, waiting for some until ``deadline``; none at the end of stdin.

        :raises TimeoutError: when nothing came.
        """
        if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(0, 1 << 16)
        self.ended = not data
        self._rest += data
        return self._packets() if self._packet4 else self._lines()

    def _lines(self) -> list[bytes]:
        *lines, self._rest = self._rest.split(b"\n")
        return lines

    def _packets(self) -> list[bytes]:
        packets = []
        while len(self._rest) >= 4 and len(self._rest) >= (end := 4 + int.from_bytes(self._rest[:4], "big")):
            packets.append(self._rest[4:end])
            self._rest = self._rest[end:]
        return packets


class Player:
    """One life of the scripted worker."""

    def __init__(self, pipes: Pipes, report: Callable[..., None]) -> None:
        self._pipes = pipes
        self._report = report
        self._checker = Checker()
        self._log: list[Message] = []
        self._unread: list[Message] = []
        self._names: dict[str, Any] = {}
        self._steps: dict[str, Callable[[Any, Step], None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }

    def play(self, steps: list[Step]) -> NoReturn:
        """Go through the steps; then be a good worker until the client ends it."""
        for number, step in enumerate([*steps, {"serve": True}], 1):
            kind = next((name for name in self._steps if name in step), None)
            try:
                if kind is None:
                    raise Mismatch("there is no such step")
                self._steps[kind](step[kind], step)
            except (Mismatch, TimeoutError, OSError) as error:
                self._fail(number, step, error)
        raise AssertionError("the last step does not come back")

    def _fail(self, number: int, step: Step, error: Exception) -> NoReturn:
        said = str(error) or f"waited {PATIENCE:g} s in vain"
        wrote = [json.dumps(message)[:200] for message in self._log[-5:]]
        text = f"step {number} {json.dumps(step)[:300]}: {said}; the client's last lines: {'; '.join(wrote)}"
        self._report("mismatch", text=text)
        os._exit(70)

    # ---- writing -------------------------------------------------------------------------------

    def _do_ready(self, fields: Any, step: Step) -> None:
        limits = {"max_line_bytes": 8388608, "max_depth": 128, "max_inflight": 1024}
        ready: dict[str, Any] = {"id": None, "type": "ready", "protocol": 1, "version": "0"}
        ready |= {"pid": os.getpid(), "limits": limits, "commands": ["ping"]}
        ready |= fields if isinstance(fields, dict) else {}
        self._send(json.dumps(ready), step)
        self._do_drained(True, step)
        self._report("ready")

    def _do_write(self, chunk: Any, step: Step) -> None:
        self._send(self._chunk(chunk), step)

    def _do_join(self, chunks: Any, step: Step) -> None:
        self._pipes.write(b"".join(self._pipes.frame(self._chunk(chunk).encode()) for chunk in chunks))

    def _do_line(self, text: Any, step: Step) -> None:
        self._send(self._named(text), step)

    def _do_raw(self, text: Any, step: Step) -> None:
        self._pipes.write(self._named(text).encode())

    def _do_base64(self, text: Any, step: Step) -> None:
        self._pipes.write(base64.b64decode(text))

    def _do_flood(self, count: Any, step: Step) -> None:
        request_id = self._names[step.get("id", "$id")[1:]]
        request = self._checker.requests[request_id]
        deadline = time.monotonic() + PATIENCE
        for n in range(count):
            while step.get("credit", True) and not request.may_send():
                self._fill(deadline)
            self._send(self._chunk({"id": request_id, "type": "chunk", "n": n, **step.get("with", {})}), {})

    def _do_stderr(self, size: Any, step: Step) -> None:
        for _ in range(size // 1000):
            os.write(2, b"e" * 999 + b"\n")

    def _chunk(self, chunk: dict[str, Any]) -> str:
        """The chunk's text; ``id`` and ``seq`` come first and are filled in unless they are there."""
        chunk = filled(chunk, self._names)
        if "id" not in chunk:
            chunk = {"id": self._names["id"], **chunk}
        request = self._checker.requests.get(chunk["id"]) if isinstance(chunk["id"], int) else None
        if "seq" not in chunk and request is not None:
            chunk = {"id": chunk.pop("id"), "seq": request.seq, **chunk}
        self._checker.wrote(chunk)
        return json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))

    def _named(self, text: str) -> str:
        for name in sorted(self._names, key=len, reverse=True):
            text = text.replace(f"${name}", json.dumps(self._names[name]))
        return text

    def _send(self, text: str, step: Step) -> None:
        framed = self._pipes.frame(text.encode())
        size = step.get("cut", len(framed))
        deadline = time.monotonic() + PATIENCE
        for at in range(0, len(framed), size):
            self._pipes.write(framed[at : at + size])
            if size < len(framed):
                self._pipes.drain(deadline)

    # ---- reading -------------------------------------------------------------------------------

    def _do_wait(self, pattern: Any, step: Step) -> None:
        begin = time.monotonic()
        message = self._next(
            filled(pattern, self._names), begin + step.get("within_ms", PATIENCE * 1e3) / 1e3
        )
        waited = (time.monotonic() - begin) * 1e3
        if waited < step.get("not_before_ms", 0):
            raise Mismatch(f"it came after {waited:.0f} ms already")
        if "id" in message:
            self._names["id"] = message["id"]
            self._names[step.get("as", "id")] = message["id"]

    def _do_count(self, pattern: Any, step: Step) -> None:
        pattern = filled(pattern, self._names)
        found = sum(mismatch(pattern, message) is None for message in self._log)
        if found != step["is"]:
            raise Mismatch(f"{found} such messages have come")

    def _next(self, pattern: Any, deadline: float) -> Message:
        """The first unread message that fits."""
        while True:
            for at, message in enumerate(self._unread):
                if mismatch(pattern, message) is None:
                    return self._unread.pop(at)
            if self._pipes.ended:
                raise Mismatch("the client closed stdin")
            self._fill(deadline)

    def _fill(self, deadline: float) -> None:
        for text in self._pipes.read(deadline):
            if (message := self._checker.read(text)) is not None:
                self._log.append(message)
                self._unread.append(message)

    # ---- living and dying ----------------------------------------------------------------------

    def _do_pause_ms(self, milliseconds: Any, step: Step) -> None:
        time.sleep(milliseconds / 1000)

    def _do_drained(self, _: Any, step: Step) -> None:
        self._pipes.drain(time.monotonic() + PATIENCE)

    def _do_close(self, name: Any, step: Step) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, {"stdin": 0, "stdout": 1}[name])
        os.close(null)

    def _do_linger(self, seconds: Any, step: Step) -> None:
        """Leave a child behind that keeps stdout open."""
        child = os.fork()
        if child == 0:
            signal.alarm(seconds)
            os.close(0)
            while True:
                signal.pause()
        self._report("child", child=child)

    def _do_may_end(self, _: Any, step: Step) -> None:
        """From here on the client has a reason to kill the worker: nothing it does is held against it."""
        self._report("finished")
        self._report = lambda event, **fields: None

    def _do_kill(self, name: Any, step: Step) -> None:
        self._report("finished")
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        signal.pause()

    def _do_exit(self, code: Any, step: Step) -> None:
        self._report("finished")
        os._exit(code)

    def _do_stay(self, _: Any, step: Step) -> None:
        """Do nothing any more, whatever the client does, until it kills."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._report("finished")
        while True:
            signal.pause()

    def _do_serve(self, _: Any, step: Step) -> None:
        """Answer ``ping`` and ``kit.echo`` until the client ends the worker as it should."""
        self._report("serving")
        deadline = time.monotonic() + LIFETIME
        while not self._checker.shutdown:
            self._answer()
            if self._pipes.ended:
                raise Mismatch("the client closed stdin without a shutdown before")
            self._fill(deadline)
        self._answer()
        self._report("finished")
        with contextlib.suppress(OSError):  # the client may have gone by now
            self._pipes.write(self._pipes.frame(b'{"id":null,"type":"bye","reason":"shutdown"}'))
        os._exit(0)

    def _answer(self) -> None:
        messages, self._unread = self._unread, []
        for message in messages:
            if "id" not in message:
                continue
            answers: dict[str, Any] = {"ping": {"type": "pong"}}
            answers["kit.echo"] = {"type": "result", "echo": message.get("args", {})}
            if message["command"] not in (*answers, "shutdown"):
                raise Mismatch(f"a request that should not have come: {json.dumps(message)[:200]}")
            if message["command"] in answers:
                self._send(
                    self._chunk({"id": message["id"], **answers[message["command"]], "done": True}), {}
                )


def _reporter(folder: str, start: int) -> Callable[..., None]:
    fifo = os.open(os.path.join(folder, "report"), os.O_WRONLY)

    def report(event: str, **fields: Any) -> None:
        line = {"start": start, "pid": os.getpid(), "at": time.monotonic(), "event": event, **fields}
        if "text" in line:
            line["text"] = line["text"][: REPORT_BYTES // 8]
        os.write(fifo, json.dumps(line).encode() + b"\n")

    return report


def _start_number(folder: str) -> int:
    """How many players of this case have been started, this one included."""
    number = 1
    while True:
        try:
            os.close(os.open(os.path.join(folder, f"start-{number}"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
        else:
            return number


def main(words: list[str]) -> NoReturn:
    """Play the case that the command line ``words`` names."""
    signal.alarm(LIFETIME)
    framing = "packet4" if "packet4" in words else "lines"
    path, name, folder = words[:3]
    with open(path, encoding="utf-8") as file:
        case = next(case for case in json.load(file) if case["name"] == name)
    start = _start_number(folder)
    report = _reporter(folder, start)
    report("started")
    Player(Pipes(framing), report).play(case["starts"][min(start, len(case["starts"])) - 1])


if __name__ == "__main__":
    main(sys.argv[1:])
