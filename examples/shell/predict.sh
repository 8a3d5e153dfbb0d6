#!/bin/sh
# One prediction, shown while the model writes it: examples/shell/predict.sh
examples=$(dirname "$0")/..

# For real answers: --model openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
echo '{"id": "r1", "command": "stream_predict", "args": {"question": "Why is the sky blue?"}}' |
    "${PYTHON:-python3}" -m bridge serve --model scripted --script "$examples/streaming.script.jsonl" \
        --script-tokens-per-s 20 |
    jq -n -j --unbuffered '
        foreach (inputs, null) as $chunk ({}; {done: (.done or $chunk.done), $chunk}; .done as $done | .chunk |
            if .type == "token" then .delta
            elif .type == "restart" then "\n(once more)\n"
            elif .type == "error" then "\nerror: \(.error)\n"
            elif .done then "\n\(.type): \(.usage.output_tokens) tokens\n"
            elif . == null and ($done | not) then "The worker ended before it had answered.\n" | halt_error(1)
            else empty end)'
