"""Reasoning as it is written, without asyncio: python examples/python/chain_of_thought.py"""

import sys
from pathlib import Path

from bridge.client import FinalAnswer, ReasoningStep, RequestError, SyncClient

# For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
flags = ["--model", "scripted", "--script", str(Path(__file__).parent.parent / "streaming.script.jsonl")]

try:
    with SyncClient(*flags) as client:
        for chunk in client.stream("stream_chain_of_thought", {"question": "Why is the sky blue?"}):
            match chunk:
                case ReasoningStep(step=step, content=content):
                    print(f"{step}. {content}", flush=True)
                case FinalAnswer(answer=answer):
                    print(answer)
except RequestError as error:
    sys.exit(str(error))
