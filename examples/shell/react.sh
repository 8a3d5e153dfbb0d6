#!/usr/bin/env bash
# An agent whose tool is a function of this script: examples/shell/react.sh
examples=$(dirname "$0")/..

population() { # what the model may call, with a country's name
    case $1 in
    France) echo '{"value": 68000000}' ;;
    Spain) echo '{"value": 49000000}' ;;
    *) jq -c -n --arg country "$1" '{error: "No country is called \($country)."}' ;;
    esac
}

# For real answers: --model openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
coproc "${PYTHON:-python3}" -m bridge serve --model scripted --script "$examples/streaming.script.jsonl"
exec 3<&"${COPROC[0]}" 4>&"${COPROC[1]}" {COPROC[1]}>&-

jq -c -n '{id: "r1", command: "stream_react_steps", args: {
    question: "Do more people live in France or in Spain?",
    tools: [{name: "population", desc: "Inhabitants of a country.", args: {country: {type: "string"}}}]
}}' >&4

done=
while read -r chunk <&3; do
    case $(jq -r .type <<<"$chunk") in
    thought) jq -r '"\(.step). \(.content)"' <<<"$chunk" ;;
    tool_call) # the host's answer: the call's id and a value, or an error
        answer=$(population "$(jq -r .args.country <<<"$chunk")")
        jq -c --argjson answer "$answer" \
            '{command: "tool_result", args: ({target: .id, call_id} + $answer)}' <<<"$chunk" >&4
        ;;
    observation) jq -r '"   \(.name): \(.content)"' <<<"$chunk" ;;
    final_answer) jq -r .answer <<<"$chunk" ;;
    error) jq -r '"error: \(.error)"' <<<"$chunk" ;;
    esac
    case $chunk in *'"done":true}') done=yes && exec 4>&- ;; esac # no more requests: the worker leaves
done
[ -n "$done" ] || { echo "The worker ended before it had answered." >&2 && exit 1; }
