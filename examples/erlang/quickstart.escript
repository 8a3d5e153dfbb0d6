#!/usr/bin/env escript
%%! -kernel logger_level error
%% A DSPy batch from Erlang: escript examples/erlang/quickstart.escript
%% Before OTP 27 it needs a JSON codec, such as Debian's erlang-jiffy.
-mode(compile).

main(_) ->
    Here = filename:dirname(filename:absname(escript:script_name())),
    [load(Path) || Path <- filelib:wildcard(filename:join(Here, "src/*.erl"))],
    io:setopts([{encoding, unicode}]),
    {ok, Lines} = file:read_file(filename:join(Here, "../quickstart.jsonl")),
    {ok, Items} = dspy_bridge_json:decode_lines(binary:split(Lines, <<"\n">>, [global, trim_all])),

    %% For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
    Flags = ["--model", "scripted", "--script", filename:join(Here, "../quickstart.script.jsonl")],
    Worker = [os:getenv("PYTHON", "python3"), "-m", "bridge", "serve" | Flags],
    {ok, Bridge} = dspy_bridge:start_link(#{argv => Worker}),
    Args = #{signature => <<"text -> completion">>, items => Items},
    Result = dspy_bridge:fold(Bridge, stream_predict_batch, Args, fun show/2, none, #{}),
    dspy_bridge:stop(Bridge),
    ended(Result).

show(#{<<"type">> := <<"prediction">>, <<"index">> := Index, <<"total">> := Total} = Chunk, _) ->
    #{<<"output">> := #{<<"completion">> := Text}} = Chunk,
    io:format("[~b/~b] ~ts~n", [Index + 1, Total, Text]);
show(#{<<"type">> := <<"error">>, <<"error">> := Text}, _) ->
    io:format(standard_error, "error: ~ts~n", [Text]);
show(#{<<"type">> := Type, <<"done">> := true} = Chunk, _) ->
    io:format("~ts: ~b succeeded~n", [Type, maps:get(<<"succeeded">>, Chunk, 0)]).

ended({ok, _}) ->
    ok;
ended({error, #{message := Message}, _}) ->
    io:format(standard_error, "~ts~n", [Message]),
    halt(1).

load(Path) ->
    {ok, Module, Binary} = compile:file(Path, [binary, report]),
    {module, Module} = code:load_binary(Module, Path, Binary).
