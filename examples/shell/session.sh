#!/usr/bin/env bash
# A worker that stays while a shell asks it one thing after another, through two FIFOs.
#   . examples/shell/session.sh            # functions for this shell, and for scripts
#   session_start --model scripted         # flags of dspy-bridge serve
#   ask ping                               # chunks as they come; fails as the request does
#   ask stream_predict '{"question": "Why is the sky blue?"}'
#   session_end
# One request at a time; for many at once write the lines yourself, each with an id of its own.

session_start() { # [flag...]: starts the worker and waits for its first line
    local folder
    folder=$(mktemp -d) && mkfifo "$folder/in" "$folder/out" || return
    ${BRIDGE:-dspy-bridge} serve "$@" <"$folder/in" >"$folder/out" &
    session_pid=$!
    # In this order: each end of a FIFO waits for the other to be opened.
    exec {session_in}>"$folder/in" {session_out}<"$folder/out"
    rm -r "$folder" # open FIFOs need no name
    local ready
    read -r ready <&"$session_out" && [[ $ready == *'"type":"ready"'* ]] && return
    echo "The worker did not start." >&2
    session_end
    return 1
}

ask() { # COMMAND [ARGS]: prints the chunks of a request; 1 if it failed
    local id=$EPOCHREALTIME chunk # unlike all others, in a pipe's subshell too
    local bad_end='^."id":"[^"]*","seq":[0-9]+,"type":"(error|cancelled)",'
    local request
    request=$(jq -c -n --arg id "$id" --arg command "$1" --argjson args "${2:-"{}"}" \
        '{$id, $command, $args}') || return 1
    (echo "$request" >&"$session_in") 2>/dev/null # a subshell: a worker that is gone ends only that
    while read -r chunk <&"$session_out"; do
        [[ $chunk == "{\"id\":\"$id\","* ]] || continue # what a request given up has left
        echo "$chunk"
        [[ $chunk == *',"done":true}' ]] || continue
        [[ ! $chunk =~ $bad_end ]]
        return
    done
    echo "The worker ended before it had answered." >&2
    return 1
}

session_end() { # the worker finishes what it was asked, and leaves
    exec {session_in}>&-
    cat <&"$session_out" >/dev/null
    exec {session_out}<&-
    wait "$session_pid"
}
