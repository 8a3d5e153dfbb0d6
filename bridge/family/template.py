"""The template: imports everything once, has no thread and no open socket but its own, and forks workers.

It talks to the supervisor over a socket that keeps the bounds of messages. ``fork`` comes with the socket
of the worker to be; the answers are reports as JSON. When the supervisor is gone it sees
to it that no worker stays behind.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final, NoReturn

import msgspec

from bridge.family.messages import FORK, Report, receive
from bridge.options import ServeOptions
from bridge.registry import Registry
from bridge.telemetry import LogWriter

#: How long workers may take to end by themselves once the supervisor is gone.
LEAVE_S: Final = 0.7


class Template:
    """See the module's words. ``control`` is the descriptor of the supervisor's socket, for which
    :func:`end_with_supervisor` was called."""

    def __init__(self, options: ServeOptions, registry: Registry, logs: LogWriter, control: int) -> None:
        self._options = options
        self._registry = registry
        self._logs = logs
        self._control = socket.socket(fileno=control)
        self._control.setblocking(False)
        self._children: set[int] = set()
        #: The pidfds of workers that an earlier template has forked.
        self._adopted: list[int] = []
        self._signals, self._wake = socket.socketpair()

    def run(self) -> int:
        """Until the supervisor closes its end: import, then fork whenever that is asked for. Gives
        the exit code."""
        self._take_signals()
        self._tell(Report(commands=self._registry.names(), states=self._states()))
        started = time.monotonic()
        self._warm()
        _death_signal(0)  # from here on the socket tells
        self._tell(Report(warm=time.monotonic() - started))
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        while True:
            poll.poll()
            self._reap()
            if not self._obey():
                return self._leave()

    def _take_signals(self) -> None:
        """Be woken when a child ends. The supervisor alone takes the signals that mean the end."""
        self._wake.setblocking(False)
        self._signals.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            # A handler, not SIG_IGN: what is ignored stays so in programs that a worker starts.
            signal.signal(number, lambda *_: None)

    def _states(self) -> dict[str, tuple[str, Any]]:
        states = {}
        for command in self._registry:
            if command.state is not None:
                states[command.name] = (command.state, _default(command.args_type, command.state))
        return states

    def _warm(self) -> None:
        from bridge.commands import warm

        warm(self._options)
        import bridge.family.member  # noqa: F401 - what every worker runs: none is to import it again

        gc.collect()
        gc.freeze()  # the workers' collectors look at none of it, so that its pages stay shared

    def _obey(self) -> bool:
        """Take one message if there is one; False when the supervisor is gone."""
        try:
            message, fd = receive(self._control)
        except BlockingIOError:
            return True
        if message == FORK and fd is None:  # the kernel drops it when this process may have no more
            self._tell(Report(not_born="too many open files"))
        elif message == FORK and fd is not None:
            self._fork(fd)
            os.close(fd)
        elif fd is not None:  # ADOPT
            self._adopted.append(fd)
        return bool(message)

    def _fork(self, fd: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Report(not_born=error.strerror))
            return
        if pid == 0:
            for pidfd in self._adopted:
                os.close(pidfd)
            self._be_worker(fd)
        self._children.add(pid)
        report = msgspec.json.encode(Report(born=pid))
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, AttributeError):  # no such call here: the supervisor does with the number
            self._send(report, [])
            return
        self._send(report, [pidfd])
        os.close(pidfd)

    def _be_worker(self, fd: int) -> NoReturn:
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            self._signals.close()
            self._wake.close()
            self._logs.renew(threaded=True)
            from bridge.family.member import serve_member

            code = serve_member(self._options, self._registry, fd, self._logs)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            self._signals.recv(4096)
        for pid in [*self._children]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._children.discard(pid)
                self._tell(Report(died=(pid, status)))

    def _leave(self) -> int:
        """The supervisor is gone, and the workers' sockets with it: end those that do not end of themselves
        (a C call that never lets go of the GIL)."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        for pidfd in self._adopted:
            poll.register(pidfd, select.POLLIN)
        until = time.monotonic() + LEAVE_S
        while (self._children or self._adopted) and (left := until - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                if fd in self._adopted:
                    poll.unregister(fd)
                    self._adopted.remove(fd)
            self._reap()
        for pidfd in self._adopted:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
        return 0

    def _tell(self, report: Report) -> None:
        self._send(msgspec.json.encode(report), [])

    def _send(self, message: bytes, fds: list[int]) -> None:
        self._control.setblocking(True)
        with suppress(OSError):  # gone: the next poll tells
            socket.send_fds(self._control, [message], fds)
        self._control.setblocking(False)


def _default(args_type: type, name: str) -> Any:
    """What an args field is when it is left out, None when that has no value of its own."""
    if args_type is not dict:
        for field in msgspec.structs.fields(args_type):
            if field.encode_name == name and not isinstance(field.default, msgspec.UnsetType):
                return None if field.default is msgspec.NODEFAULT else field.default
    return None


def end_with_supervisor(control: int) -> None:
    """While the socket ``control`` is not read, for the imports: have the kernel end this process with the
    supervisor, and let nothing that they start have the socket."""
    os.set_inheritable(control, False)
    _death_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(control, 0)
    if poll.poll(0):  # it ended before the kernel was asked
        os._exit(0)


def _death_signal(number: int) -> None:
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(number), 0, 0, 0)
