"""A batch with DSPy and no worker around it: ``python -m tests.benchmarks.dspy_floors WAY LATENCY_MS``.

Each line of stdin is a round, ``ITEMS IN_FLIGHT``, and answered with the seconds it took. ``LATENCY_MS`` is
how long the LM takes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

Round = Callable[[list[str], int], int]


def texts(items: int) -> list[str]:
    """What is asked."""
    return [f"The capital of country {number} is" for number in range(items)]


def _stock(latency_s: float) -> Any:
    """DSPy as it comes, but for an LM that keeps its time."""
    import dspy

    from tests.benchmarks.engine import AsyncInstantEngine, InstantEngine

    engines = {
        "engine": InstantEngine(latency_s),
        "async_engine": AsyncInstantEngine(latency_s=latency_s),
    }
    dspy.configure(lm=dspy.LM("scripted", cache=False, **engines))
    return dspy.Predict("text -> completion")


async def _gather(predict: Any, asked: list[str], in_flight: int) -> int:
    slots = asyncio.Semaphore(in_flight)

    async def one(text: str) -> str:
        async with slots:
            return str((await predict.acall(text=text)).completion)

    return (await asyncio.gather(*map(one, asked))).count("France")


def gather(latency_s: float) -> Round:
    """``asyncio.gather`` over ``acall``."""
    predict = _stock(latency_s)
    return lambda asked, in_flight: asyncio.run(_gather(predict, asked, in_flight))


def parallel(latency_s: float) -> Round:
    """``dspy.Parallel``, with as many threads as there may be in flight."""
    import dspy

    predict = _stock(latency_s)

    def run(asked: list[str], in_flight: int) -> int:
        threads = dspy.Parallel(num_threads=in_flight, disable_progress_bar=True)
        answers = threads([(predict, {"text": text}) for text in asked])
        return [answer.completion for answer in answers].count("France")

    return run


def tuned(latency_s: float) -> Round:
    """``asyncio.gather`` with DSPy set up as a worker does: its adapter, executor, shortcuts and usage."""
    from functools import partial

    from bridge.dspy_runtime import loader
    from bridge.options import ServeOptions

    options = ServeOptions()
    loader.load(options)  # before anything imports DSPy
    from bridge.dspy_runtime import scripted
    from tests.benchmarks.engine import AsyncInstantEngine

    vars(scripted)["AsyncScriptedEngine"] = partial(AsyncInstantEngine, latency_s=latency_s)
    loop = asyncio.new_event_loop()
    return lambda asked, in_flight: loop.run_until_complete(_tuned(options, asked, in_flight))


async def _tuned(options: Any, asked: list[str], in_flight: int) -> int:
    import dspy

    from bridge.dspy_runtime import loader, predictor
    from bridge.dspy_runtime.specs import LmSpec
    from bridge.dspy_runtime.usage import CallUsage

    runtime = await loader.runtime(options)
    with runtime.lms.lease(LmSpec(model="scripted")) as lease:
        predict = predictor.make_module("predict", runtime.signatures.compile("text -> completion"), lease)
        settings = {**predictor.settings(runtime, lease), "usage_tracker": (usage := CallUsage())}
        with dspy.context(**settings):
            answered = await _gather(predict, asked, in_flight)
    assert usage.usage["calls"] == len(asked)
    return answered


WAYS = {"gather": gather, "parallel": parallel, "tuned": tuned}

if __name__ == "__main__":
    way, latency_ms = sys.argv[1:]
    run_round = WAYS[way](float(latency_ms) / 1000)
    print("ready", flush=True)
    for line in sys.stdin:
        items, in_flight = map(int, line.split())
        started = time.perf_counter()
        assert run_round(texts(items), in_flight) == items
        print(f"{time.perf_counter() - started:.6f}", flush=True)
