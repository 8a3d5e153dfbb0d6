"""A DSPy batch from Python with nothing but the standard library: python examples/python/quickstart.py"""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent
items = [json.loads(line) for line in (EXAMPLES / "quickstart.jsonl").read_text().splitlines()]
args = {"signature": "text -> completion", "items": items}
request = {"id": "r1", "command": "stream_predict_batch", "args": args}

# For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
flags = ["--model", "scripted", "--script", EXAMPLES / "quickstart.script.jsonl"]
command = [sys.executable, "-m", "bridge", "serve", *flags]
done = False
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
    # No more requests follow: the worker answers this one and leaves.
    if worker.stdout.readline():  # its first line: ready
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.close()
    for line in worker.stdout:
        chunk = json.loads(line)
        match chunk["type"]:
            case "prediction":
                print(f"[{chunk['index'] + 1}/{chunk['total']}]", chunk["output"]["completion"])
            case "error":
                print("error:", chunk["error"], file=sys.stderr)
        if chunk.get("done"):
            done = True
            print(f"{chunk['type']}: {chunk.get('succeeded', 0)} succeeded")
if not done:
    sys.exit(f"The worker ended before it had answered (exit code {worker.returncode}).")
