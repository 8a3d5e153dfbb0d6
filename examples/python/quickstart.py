"""A DSPy batch from Python: python examples/python/quickstart.py"""

import asyncio
import json
import sys
from pathlib import Path

from bridge.client import Client, Complete, Failure, Prediction, RequestError

EXAMPLES = Path(__file__).parent.parent
items = [json.loads(line) for line in (EXAMPLES / "quickstart.jsonl").read_text().splitlines()]

# For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
flags = ["--model", "scripted", "--script", str(EXAMPLES / "quickstart.script.jsonl")]


async def main() -> None:
    """Predict each item; leaving the loop early would cancel the rest."""
    async with Client(*flags) as client:
        args = {"signature": "text -> completion", "items": items}
        async for chunk in client.stream("stream_predict_batch", args):
            match chunk:
                case Prediction(index=int(index), output=output):
                    print(f"[{index + 1}/{chunk.total}]", output["completion"])
                case Failure(error=error):
                    print("error:", error, file=sys.stderr)
                case Complete():
                    print(f"complete: {chunk.succeeded} succeeded")


try:
    asyncio.run(main())
except RequestError as error:
    sys.exit(str(error))
