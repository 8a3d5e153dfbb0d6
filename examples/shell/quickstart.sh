#!/bin/sh
# A DSPy batch from a shell, with jq at both ends: examples/shell/quickstart.sh
examples=$(dirname "$0")/..

# For real answers: --model openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
jq -c -n --slurpfile items "$examples/quickstart.jsonl" \
    '{id: "r1", command: "stream_predict_batch", args: {signature: "text -> completion", items: $items}}' |
    "${PYTHON:-python3}" -m bridge serve --model scripted --script "$examples/quickstart.script.jsonl" |
    jq -r --unbuffered '
        if .type == "prediction" then "[\(.index + 1)/\(.total)] \(.output.completion)"
        elif .type == "error" then "error: \(.error)"
        elif .done then "\(.type): \(.succeeded // 0) succeeded"
        else empty end'
