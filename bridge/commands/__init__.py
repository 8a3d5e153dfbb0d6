"""The built-in commands. Importing this package is light; DSPy comes with the first request for it."""

from __future__ import annotations

from bridge.options import ServeOptions

#: The modules that register the built-in commands, in the order ``ready`` lists them.
MODULES = (
    "bridge.commands.core",
    "bridge.commands.configure",
    "bridge.commands.predict",
    "bridge.commands.stream_predict",
    "bridge.commands.chain_of_thought",
    "bridge.commands.react",
)


def preload(options: ServeOptions) -> None:
    """Begin to import DSPy in a thread of its own."""
    from bridge.dspy_runtime import loader

    loader.start_background(options)


def warm(options: ServeOptions) -> None:
    """Import DSPy and use it once, in this thread, leaving neither threads nor sockets behind."""
    from bridge.dspy_runtime import warm as runtime

    runtime.warm(options)
