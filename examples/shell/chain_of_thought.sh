#!/bin/sh
# A chain of thought, each line of reasoning as soon as it is complete: examples/shell/chain_of_thought.sh
examples=$(dirname "$0")/..

# For real answers: --model openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
echo '{"id": "r1", "command": "stream_chain_of_thought", "args": {"question": "Why is the sky blue?"}}' |
    "${PYTHON:-python3}" -m bridge serve --model scripted --script "$examples/streaming.script.jsonl" \
        --script-tokens-per-s 20 |
    jq -n -r --unbuffered '
        foreach (inputs, null) as $chunk ({}; {done: (.done or $chunk.done), $chunk}; .done as $done | .chunk |
            if .type == "reasoning_step" then "\(.step). \(.content)"
            elif .type == "restart" then "(once more)"
            elif .type == "error" then "error: \(.error)"
            elif .type == "final_answer" then .answer
            elif . == null and ($done | not) then "The worker ended before it had answered.\n" | halt_error(1)
            else empty end)'
