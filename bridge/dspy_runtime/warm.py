"""Using DSPy once before workers are forked, so that none of them does for itself what all can share."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING, Any

from bridge.dspy_runtime import loader
from bridge.dspy_runtime.specs import LmSpec, ScriptEntry
from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.dspy_runtime.runtime import Runtime
    from bridge.options import ServeOptions

SIGNATURE = "question: str, hints: list[str] -> answer: str, score: float"
INPUTS = {"question": "What is the capital of France?", "hints": ["It lies on the Seine."]}
ANSWERS = {"reasoning": "Everybody knows.", "answer": "Paris", "score": 0.5}
ADAPTERS = ("chat", "json", "xml")
#: What requests import when they come first.
LATE_MODULES = (
    "bridge.dspy_runtime.agent",
    "bridge.dspy_runtime.batch",
    "bridge.dspy_runtime.predictor",
    "bridge.dspy_runtime.single",
    "bridge.dspy_runtime.tools",
)

_log = logging.getLogger("bridge.dspy")


def warm(options: ServeOptions) -> None:
    """Import DSPy and make a prediction with each adapter. A failure is logged: requests will tell it again.

    When this returns, the process has the threads, loops and sockets that it had before.
    """
    try:
        runtime = loader.load_here(options)
    except BridgeError:
        return  # it is in the log
    try:
        for name in LATE_MODULES:
            importlib.import_module(name)
        asyncio.run(_predict(runtime, options))
    except Exception as error:  # noqa: BLE001 - a worker that is not warm is only slower at first
        _log.warning("DSPy could not be warmed up", exc_info=error)


async def _predict(runtime: Runtime, options: ServeOptions) -> None:
    from bridge.dspy_runtime import predictor, streaming
    from bridge.dspy_runtime.batch import Batch
    from bridge.dspy_runtime.lm import InternedLm, Lease
    from bridge.dspy_runtime.signatures import SignatureCache

    runtime.install(asyncio.get_running_loop())
    spec = LmSpec(model="scripted", script=[ScriptEntry(outputs=ANSWERS)])
    interned = InternedLm(b"", spec, options)
    compiled = SignatureCache().compile(SIGNATURE)  # not the runtime's: nothing of this is to stay
    for adapter in ADAPTERS:
        lease = Lease(interned, adapter)
        context: dict[str, Any] = predictor.settings(runtime, lease)
        for settings in (
            context,
            {**context, "send_stream": streaming.FieldStream({}), "stream_listeners": []},
        ):
            module = predictor.make_module("chain_of_thought", compiled)
            runner = predictor.ItemRunner(module, compiled, [INPUTS], {}, settings, lease)
            async for outcome in Batch(1, 1, ordered=True).run(runner.worker):
                if outcome.error is not None:
                    raise outcome.error
    await interned.aclose()
