"""Taking stdin and stdout for the protocol alone, before anything else is imported.

``print``, a library's ``os.write(1, …)``, C code and child processes all reach fd 1, and a child would
read fd 0. After :func:`take` those are /dev/null and stderr; the pipes live on private descriptors that
no child inherits. Imports nothing but ``os``: it runs first.
"""

from __future__ import annotations

import os


class ClosedStdout(Exception):
    """There was no stdout at start: nothing could be answered."""


def take() -> tuple[int, int]:
    """Private descriptors for stdin and stdout; fd 0 and 1 are made harmless.

    A closed stdin reads as ended. A closed stderr is replaced by /dev/null.

    :raises ClosedStdout: when fd 1 is not open.
    """
    try:
        os.fstat(1)
    except OSError:
        raise ClosedStdout from None
    for fd, flags in ((0, os.O_RDONLY), (2, os.O_WRONLY)):
        _open_if_closed(fd, flags)
    private_in = _private(0)
    private_out = _private(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    if null > 2:
        os.close(null)
    # A bare fork (no exec) would keep the pipes open: its exit, not ours, would end them for the host.
    os.register_at_fork(after_in_child=lambda: _close(private_in, private_out))
    return private_in, private_out


def _open_if_closed(fd: int, flags: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != fd:
            os.dup2(opened, fd)
            os.close(opened)


def _private(fd: int) -> int:
    """A close-on-exec duplicate above the standard three, whatever was closed at start."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _close(*fds: int) -> None:
    for fd in fds:
        try:  # noqa: SIM105 - contextlib is one import too many here
            os.close(fd)
        except OSError:
            pass
