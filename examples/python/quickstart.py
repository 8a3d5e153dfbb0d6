"""A DSPy batch from Python: python examples/python/quickstart.py"""

import asyncio
import json
import sys
from pathlib import Path

from bridge.client import Client, RequestError

EXAMPLES = Path(__file__).parent.parent
items = [json.loads(line) for line in (EXAMPLES / "quickstart.jsonl").read_text().splitlines()]

# For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
flags = ["--model", "scripted", "--script", str(EXAMPLES / "quickstart.script.jsonl")]


async def main() -> None:
    """Predict each item; leaving the loop early would cancel the rest."""
    args = {"signature": "text -> completion", "items": items}
    async with Client(*flags) as client:
        async for chunk in client.stream("stream_predict_batch", args):
            if chunk.type == "prediction":
                print(f"[{chunk['index'] + 1}/{chunk['total']}]", chunk["output"]["completion"])
            elif chunk.type == "error":
                print("error:", chunk["error"], file=sys.stderr)
            elif chunk.done:
                print(f"{chunk.type}: {chunk['succeeded']} succeeded")


try:
    asyncio.run(main())
except RequestError as error:
    sys.exit(str(error))
