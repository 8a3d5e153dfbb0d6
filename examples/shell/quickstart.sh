#!/bin/sh
# A DSPy batch from a shell, with jq at both ends: examples/shell/quickstart.sh
examples=$(dirname "$0")/..

# For real answers: --model openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
jq -c -n --slurpfile items "$examples/quickstart.jsonl" \
    '{id: "r1", command: "stream_predict_batch", args: {signature: "text -> completion", items: $items}}' |
    "${PYTHON:-python3}" -m bridge serve --model scripted --script "$examples/quickstart.script.jsonl" |
    jq -n -r --unbuffered '
        foreach (inputs, null) as $chunk ({}; {done: (.done or $chunk.done), $chunk}; .done as $done | .chunk |
            if .type == "prediction" then "[\(.index + 1)/\(.total)] \(.output.completion)"
            elif .type == "error" then "error: \(.error)"
            elif .done then "\(.type): \(.succeeded // 0) succeeded"
            elif . == null and ($done | not) then "The worker ended before it had answered.\n" | halt_error(1)
            else empty end)'
