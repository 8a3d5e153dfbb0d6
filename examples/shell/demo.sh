#!/usr/bin/env bash
# What `make demo` runs: four items through a real worker, as raw chunks and then as a person reads them.
# MODEL and API_BASE (or DSPY_BRIDGE_MODEL) choose a real language model; BRIDGE is the program.
set -euo pipefail
examples=$(cd "$(dirname "$0")/.." && pwd)
bridge=${BRIDGE:-dspy-bridge}
model=${MODEL:-${DSPY_BRIDGE_MODEL:-}}

if [ -n "$model" ]; then
    flags=(--model "$model" ${API_BASE:+--api-base "$API_BASE"})
    echo "Four items through a real worker, answered by $model."
else
    flags=(--model scripted --script "$examples/quickstart.script.jsonl")
    echo "Four items through a real worker. The answers are canned: they come from a script, not from a model."
fi
chunks=$(mktemp)
trap 'rm -f "$chunks"' EXIT

echo
echo "What the worker writes, one JSON object a line:"
echo
"$bridge" call stream_predict_batch --raw "${flags[@]}" \
    signature='text -> completion' items=@"$examples/quickstart.jsonl" | tee "$chunks" || true
echo
echo "The same for people:"
echo
"$bridge" show "$chunks" # its exit code says how the stream ended

[ -z "$model" ] || exit 0
cat <<'END'

With a real model:
  DSPY_BRIDGE_MODEL=openai/gpt-4o-mini OPENAI_API_KEY=sk-... make demo
With Ollama on this machine:
  make demo MODEL=ollama_chat/llama3.2
END
