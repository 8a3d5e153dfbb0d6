"""``python -m tests.support.plain_dspy``: DSPy as it comes, with nothing of this project in its process.

A line of stdin is a job: ``{"case", "adapter", "module", "streamed", "lm"}``. All items of the case are run,
a line of stdout holds their outputs, or the type of the error that each ended with.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import dspy
import pydantic
import pydantic_core

from tests.support.same_cases import CASES

ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}
MODULES = {"predict": dspy.Predict, "chain_of_thought": dspy.ChainOfThought}


class Sink:
    """Makes DSPy stream; nobody listens."""

    async def send(self, chunk: object) -> None:
        """What DSPy calls."""


async def run(job: dict[str, Any]) -> list[Any]:
    """The outputs of a job, item by item."""
    case = CASES[job["case"]]
    program = MODULES[job["module"]](case.plain)
    config = {"config": case.config} if case.config else {}
    settings: dict[str, Any] = {"send_stream": Sink(), "stream_listeners": []} if job["streamed"] else {}
    lm = dspy.LM(**job["lm"], **case.lm, cache=False)
    found = []
    with dspy.context(lm=lm, adapter=ADAPTERS[job["adapter"]](), **settings):
        for item in case.items:
            try:
                prediction = await program.acall(**typed(case.plain, item), **config)
            except dspy.DSPyError as error:
                found.append(type(error).__name__)
            else:
                found.append(pydantic_core.to_jsonable_python(dict(prediction.items())))
    await lm.aclose()
    return found


def typed(signature: Any, item: dict[str, Any]) -> dict[str, Any]:
    """An item with its objects as what a person would pass."""
    fields = dspy.ensure_signature(signature).input_fields
    return {
        name: pydantic.TypeAdapter(fields[name].annotation).validate_python(value)
        for name, value in item.items()
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run(json.loads(line)))), flush=True)
