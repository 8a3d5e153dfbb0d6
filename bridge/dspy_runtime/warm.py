"""Using DSPy once before workers are forked, so that none of them does for itself what all can share."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
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
#: What DSPy imports with the first call of its own engine, of one over https, and of one that streams.
ENGINE_MODULES = (
    "dspy._vendor.lm15.cloud.hosts",
    "dspy._vendor.lm15.cloud.sigv4",
    "dspy._vendor.lm15.transports._ssl",
    "anyio._backends._asyncio",
)

_log = logging.getLogger("bridge.dspy")


def warm(options: ServeOptions) -> None:
    """Import DSPy and make a prediction with each adapter. A failure is logged: requests will tell it again.

    When this returns, the process has the threads, loops, sockets and open files that it had before.
    """
    try:
        runtime = loader.load_here(options)
    except BridgeError:
        return  # it is in the log
    try:
        for name in LATE_MODULES:
            importlib.import_module(name)
        _share_engine()
        asyncio.run(_predict(runtime, options))
    except Exception as error:  # noqa: BLE001 - a worker that is not warm is only slower at first
        _log.warning("DSPy could not be warmed up", exc_info=error)
    finally:
        _close_disk_cache()


def _close_disk_cache() -> None:
    """Let go of the databases of ``--cache-dir``: SQLite forbids taking a connection across a fork. Each
    worker opens them when it first looks for an answer."""
    import dspy

    close = getattr(dspy.cache.disk_cache, "close", None)  # a dictionary stands there without one
    if close is not None:
        close()


def _share_engine() -> None:
    """Have what DSPy's own engine needs for its first call, above all the price map: in each worker that
    would be 8 MB of its own, and 60 ms of the first request."""
    try:
        for name in ENGINE_MODULES:
            importlib.import_module(name)
        # An operator who wants the map of the internet gets it with a first call: no socket is opened here.
        if os.environ.get("LITELLM_LOCAL_MODEL_COST_MAP", "").lower() == "true":
            importlib.import_module("dspy.clients.model_metadata").source_info()
    except (ImportError, AttributeError):
        _log.info("DSPy's engine is not as known; each worker loads what it lacks")


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
