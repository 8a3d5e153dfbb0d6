"""A thread that sees what the loop may be too busy to see: the host's death, signals, the parent's end.

It sleeps in one poll(2) over stdout, the signal wake-up pipe and the parent's pidfd. What it sees it hands
to the loop; when the loop does not act in time, the process is ended all the same.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
from collections.abc import Callable
from typing import Final

from bridge import children
from bridge.worker.announce import Signals

#: How long the loop may take to end the process after the host's death or a second signal.
OVERDUE_S: Final = 0.6
#: Where the kernel has no pidfd, the parent is looked at this often.
PARENT_CHECK_MS: Final = 250


class Watcher:
    """Watches from a daemon thread; the callbacks run in it and must only hand over to the loop.

    ``on_broken``: nobody reads stdout any more. ``on_orphaned(open)``: the parent process has ended, and
    whether somebody else could still write to stdin. ``on_signal(count)``: SIGTERM or SIGINT arrived, for
    the ``count``-th time.
    """

    def __init__(
        self,
        stdin: int,
        stdout: int,
        signals: Signals,
        *,
        watch_parent: bool,
        on_broken: Callable[[], None],
        on_orphaned: Callable[[bool], None],
        on_signal: Callable[[int], None],
    ) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._on_broken = on_broken
        self._on_orphaned = on_orphaned
        self._on_signal = on_signal
        self._signals = signals
        self._signalled = 0
        self._parent = signals.parent if watch_parent else 0
        self._parent_fd: int | None = None

    def start(self) -> None:
        """Begin; what was signalled before is seen now."""
        threading.Thread(target=self._run, name="bridge-watcher", daemon=True).start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._stdout, 0)  # POLLERR and POLLHUP are always told
        poll.register(self._signals.fd, select.POLLIN)
        timeout = self._watch_parent(poll)
        while True:
            for fd, events in poll.poll(timeout):
                if fd == self._stdout:
                    poll.unregister(fd)
                    if events & (select.POLLERR | select.POLLHUP):
                        self._on_broken()
                elif fd == self._parent_fd:
                    poll.unregister(fd)
                    self._orphaned()
                else:
                    self._take_signals()
            if self._parent and self._parent_fd is None and os.getppid() != self._parent:
                timeout = None
                self._orphaned()

    def _watch_parent(self, poll: select.poll) -> int | None:
        """Register the parent's end; the poll's timeout in milliseconds where only looking helps."""
        if not self._parent:
            return None
        try:
            self._parent_fd = os.pidfd_open(self._parent)
        except (OSError, AttributeError):
            return PARENT_CHECK_MS
        if os.getppid() != self._parent:  # it ended while we were looking
            os.close(self._parent_fd)
            self._parent_fd = None
            return PARENT_CHECK_MS
        poll.register(self._parent_fd, select.POLLIN)
        return None

    def _orphaned(self) -> None:
        self._parent = 0
        self._on_orphaned(_can_bring_more(self._stdin))

    def _take_signals(self) -> None:
        for _ in range(self._signals.take()):
            self._signalled += 1
            self._on_signal(self._signalled)


def _can_bring_more(stdin: int) -> bool:
    """Whether stdin is a pipe, socket or terminal that somebody holds open. A file only has an end."""
    if stat.S_ISREG(os.fstat(stdin).st_mode):
        return False
    poll = select.poll()
    poll.register(stdin, 0)
    return not any(events & select.POLLHUP for _, events in poll.poll(0))


def exit_when_overdue(code: int, after_s: float = OVERDUE_S) -> None:
    """End the process, and those it started, with ``code`` in ``after_s`` seconds unless it has ended by
    itself."""
    timer = threading.Timer(after_s, _exit, (code,))
    timer.daemon = True
    timer.start()


def _exit(code: int) -> None:
    children.kill_all()
    os._exit(code)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux only).

    :raises OSError: where it can not be arranged.
    """
    import ctypes

    pr_set_pdeathsig = 1  # linux/prctl.h
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(3)
