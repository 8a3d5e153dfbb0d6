#!/usr/bin/env escript
%%! -kernel logger_level error
%% An agent whose tool is a function of this script: escript examples/erlang/react.escript
%% Before OTP 27 it needs a JSON codec, such as Debian's erlang-jiffy.
-mode(compile).

main(_) ->
    Here = filename:dirname(filename:absname(escript:script_name())),
    [load(Path) || Path <- filelib:wildcard(filename:join(Here, "src/*.erl"))],
    io:setopts([{encoding, unicode}]),

    %% For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
    Flags = ["--model", "scripted", "--script", filename:join(Here, "../streaming.script.jsonl")],
    Worker = [os:getenv("PYTHON", "python3"), "-m", "bridge", "serve" | Flags],
    {ok, Bridge} = dspy_bridge:start_link(#{argv => Worker}),

    Population = #{
        desc => <<"Inhabitants of a country.">>,
        args => #{country => #{type => string}},
        'fun' => fun(#{<<"country">> := Country}) -> population(Country) end
    },
    Args = #{question => <<"Do more people live in France or in Spain?">>},
    Options = #{tools => #{population => Population}},
    Result = dspy_bridge:fold(Bridge, stream_react_steps, Args, fun show/2, none, Options),
    dspy_bridge:stop(Bridge),
    ended(Result).

population(<<"France">>) -> 68000000;
population(<<"Spain">>) -> 49000000;
population(Country) -> {error, <<"No country is called ", Country/binary, ".">>}.

show(#{<<"type">> := <<"thought">>, <<"step">> := Step, <<"content">> := Content}, _) ->
    io:format("~b. ~ts~n", [Step, Content]);
show(#{<<"type">> := <<"observation">>, <<"name">> := Name, <<"content">> := Content}, _) ->
    {ok, Shown} = dspy_bridge_json:encode(Content),
    io:format("   ~ts: ~ts~n", [Name, Shown]);
show(#{<<"type">> := <<"final_answer">>, <<"answer">> := Answer}, _) ->
    io:format("~ts~n", [Answer]);
show(_Chunk, _) ->
    none.

ended({ok, _}) ->
    ok;
ended({error, #{message := Message}, _}) ->
    io:format(standard_error, "~ts~n", [Message]),
    halt(1).

load(Path) ->
    {ok, Module, Binary} = compile:file(Path, [binary, report]),
    {module, Module} = code:load_binary(Module, Path, Binary).
