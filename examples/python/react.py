"""An agent whose tool is a function of this program: python examples/python/react.py"""

import asyncio
import sys
from pathlib import Path

from bridge.client import FinalAnswer, Observation, Pool, RequestError, Thought


async def population(country: str) -> int:
    """Inhabitants of a country."""
    return {"France": 68_000_000, "Spain": 49_000_000}[country]


# For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
flags = ["--model", "scripted", "--script", str(Path(__file__).parent.parent / "streaming.script.jsonl")]


async def main() -> None:
    """Ask; the model calls the function as often as it likes."""
    async with Pool(*flags, workers=2) as pool:
        args = {"question": "Do more people live in France or in Spain?"}
        async for chunk in pool.stream("stream_react_steps", args, tools=[population]):
            match chunk:
                case Thought(step=step, content=content):
                    print(f"{step}. {content}")
                case Observation(name=name, content=content):
                    print(f"   {name}: {content}")
                case FinalAnswer(answer=answer):
                    print(answer)


try:
    asyncio.run(main())
except RequestError as error:
    sys.exit(str(error))
