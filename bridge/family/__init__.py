"""A family of workers behind one pipe: ``dspy-bridge serve --workers N``.

Three kinds of process. The *supervisor* owns the host's pipe; it routes request lines and relays chunk
lines, and runs no code of a user's. The *template* imports the commands and DSPy once and forks. The
*workers* are its children: each is what a single worker is, on a socket to the supervisor instead of the
host's pipe.
"""

from __future__ import annotations

from typing import Final

#: The environment variable that makes a process a template, and names its socket. It stands here because
#: every worker looks for it, and for nothing else of this package.
VARIABLE: Final = "DSPY_BRIDGE_TEMPLATE_FD"
