"""The command line for people: ``call``, ``describe``, ``show`` and ``doctor``, all around a real worker.

Nothing here is needed to serve; a worker never imports it.
"""

from bridge.cli.app import main

__all__ = ["main"]
