#!/usr/bin/env escript
%%! -noinput
%% Drives the Erlang client for the tests: operations on stdin, events on stdout, one JSON object a line.
-mode(compile).

main(_) ->
    process_flag(trap_exit, true),
    Here = filename:dirname(filename:absname(escript:script_name())),
    [load(Path) || Path <- filelib:wildcard(filename:join(Here, "../../../examples/erlang/src/*.erl"))],
    %% stdout is for events
    logger:remove_handler(default),
    logger:add_handler(stderr, logger_std_h, #{config => #{type => standard_error}}),
    %% Not by way of io: bytes in, bytes out.
    Port = open_port({fd, 0, 1}, [binary, eof, {line, 65536}]),
    loop(#{port => Port, begun => [], bridge => none, running => #{}}).

load(Path) ->
    {ok, Module, Binary} = compile:file(Path, [binary, report]),
    {module, Module} = code:load_binary(Module, Path, Binary).

loop(#{port := Port, begun := Begun} = State) ->
    receive
        {Port, {data, {noeol, Part}}} ->
            loop(State#{begun := [Part | Begun]});
        {Port, {data, {eol, Rest}}} ->
            {ok, Operation} = dspy_bridge_json:decode(lists:reverse(Begun, [Rest])),
            #{<<"op">> := Op, <<"ref">> := Ref} = Operation,
            loop(operation(Op, Ref, Operation, State#{begun := []}));
        {Port, eof} ->
            _ = stop(State, 0),
            halt(0);
        {'DOWN', Monitor, process, _, Reason} ->
            loop(ended(Monitor, Reason, State));
        _ ->
            loop(State)
    end.

event(#{port := Port}, Ref, Event, Fields) ->
    {ok, Line} = dspy_bridge_json:encode(Fields#{ref => Ref, event => Event}),
    port_command(Port, [Line, $\n]),
    ok.

failed(State, Ref, #{code := Code, message := Message, retryable := Retryable}, Fields) ->
    event(State, Ref, failed, Fields#{code => Code, error => Message, retryable => Retryable}).

%% ---- operations ------------------------------------------------------------------------------------

operation(<<"start">>, Ref, #{<<"argv">> := Argv} = Operation, State) ->
    Ready = maps:get(<<"ready_ms">>, Operation, 30000),
    Framing = binary_to_existing_atom(maps:get(<<"framing">>, Operation, <<"lines">>)),
    {ok, Bridge} = dspy_bridge:start_link(#{argv => Argv, framing => Framing, ready_timeout => Ready}),
    case dspy_bridge:await_ready(Bridge, infinity) of
        ok ->
            event(State, Ref, started, #{}),
            State#{bridge := Bridge};
        {error, Error} ->
            dspy_bridge:stop(Bridge),
            failed(State, Ref, Error, #{}),
            State
    end;
operation(<<"stop">>, Ref, Operation, State) ->
    %% Operations that come meanwhile are taken: what is running may be cancelled.
    Main = self(),
    spawn(fun() ->
        _ = stop(State, maps:get(<<"grace_ms">>, Operation, 30000)),
        event(State#{main => Main}, Ref, stopped, #{})
    end),
    State#{bridge := none};
operation(<<"pids">>, Ref, _, #{bridge := Bridge} = State) ->
    event(State, Ref, pids, #{pids => [Pid || Pid <- [dspy_bridge:os_pid(Bridge)], is_integer(Pid)]}),
    State;
operation(<<"cancel">>, Ref, _, #{running := Running} = State) ->
    [exit(Pid, kill) || {Pid, Of, _} <- maps:values(Running), Of =:= Ref],
    State;
operation(Op, Ref, Operation, #{running := Running} = State) ->
    Count = counters:new(1, []),
    {Pid, Monitor} = spawn_monitor(fun() -> run(Op, Ref, Operation, Count, State) end),
    State#{running := Running#{Monitor => {Pid, Ref, Count}}}.

stop(#{bridge := none}, _) -> ok;
stop(#{bridge := Bridge}, GraceMs) -> dspy_bridge:stop(Bridge, GraceMs).

ended(Monitor, Reason, #{running := Running} = State) ->
    case {maps:take(Monitor, Running), Reason} of
        {{{_, Ref, Count}, Others}, killed} ->
            event(State, Ref, left, #{count => counters:get(Count, 1)}),
            State#{running := Others};
        {{_, Others}, _} ->
            State#{running := Others};
        {error, _} ->
            State
    end.

%% ---- each in a process of its own ------------------------------------------------------------------

run(<<"call">>, Ref, Operation, _Count, #{bridge := Bridge} = State) ->
    #{<<"command">> := Command, <<"args">> := Args} = Operation,
    case dspy_bridge:call(Bridge, Command, Args, options(Operation)) of
        {ok, Chunk} -> event(State, Ref, result, #{chunk => Chunk});
        {error, Error} -> failed(State, Ref, Error, #{})
    end;
run(<<"stream">>, Ref, Operation, Count, #{bridge := Bridge} = State) ->
    #{<<"command">> := Command, <<"args">> := Args} = Operation,
    Begun = erlang:monotonic_time(),
    See = seer(Ref, Operation, Count, State),
    case dspy_bridge:fold(Bridge, Command, Args, See, {true, none}, options(Operation)) of
        {ok, {left, At}} ->
            event(State, Ref, left, #{count => counters:get(Count, 1), ms => ms_since(At)});
        {ok, {InOrder, Type}} ->
            Fields = #{in_order => InOrder, type => Type, ms => ms_since(Begun)},
            event(State, Ref, ended, Fields#{count => counters:get(Count, 1)});
        {error, Error, _} ->
            failed(State, Ref, Error, #{count => counters:get(Count, 1)})
    end;
run(<<"ping">>, Ref, #{<<"n">> := N} = Operation, _Count, #{bridge := Bridge} = State) ->
    Command = maps:get(<<"command">>, Operation, <<"ping">>),
    Args = maps:get(<<"args">>, Operation, #{}),
    Times = lists:sort([
        begin
            Begun = erlang:monotonic_time(),
            {ok, _} = dspy_bridge:call(Bridge, Command, Args),
            erlang:convert_time_unit(erlang:monotonic_time() - Begun, native, nanosecond) / 1000
        end
     || _ <- lists:seq(1, N)
    ]),
    At = fun(Part) -> lists:nth(min(N, trunc(N * Part) + 1), Times) end,
    event(State, Ref, pings, #{p50_us => At(0.5), p99_us => At(0.99)});
run(<<"raw">>, Ref, #{<<"argv">> := Argv, <<"line">> := Line} = Operation, _Count, State) ->
    [Program | Args] = [unicode:characters_to_list(Word) || Word <- Argv],
    {Framing, End} =
        case maps:get(<<"framing">>, Operation, <<"lines">>) of
            <<"packet4">> -> {{packet, 4}, []};
            _ -> {{line, 65536}, [$\n]}
        end,
    Port = open_port({spawn_executable, os:find_executable(Program)}, [binary, exit_status, Framing, {args, Args}]),
    _Ready = raw_line(Port, []),
    Begun = erlang:monotonic_time(),
    port_command(Port, [Line, End]),
    Count = raw(Port, 0),
    Ms = ms_since(Begun),
    port_close(Port),
    event(State, Ref, raw, #{count => Count, ms => Ms}).

raw(Port, Count) ->
    case dspy_bridge_json:decode(raw_line(Port, [])) of
        {ok, #{<<"done">> := true}} -> Count + 1;
        {ok, _} -> raw(Port, Count + 1)
    end.

raw_line(Port, Begun) ->
    receive
        {Port, {data, {noeol, Part}}} -> raw_line(Port, [Begun, Part]);
        {Port, {data, {eol, Rest}}} when Begun =:= [] -> Rest;
        {Port, {data, {eol, Rest}}} -> iolist_to_binary([Begun, Rest]);
        {Port, {data, Packet}} -> Packet
    end.

ms_since(Begun) ->
    erlang:convert_time_unit(erlang:monotonic_time() - Begun, native, microsecond) / 1000.

%% What is done with each chunk of a stream.
seer(Ref, Operation, Count, State) ->
    Report = maps:get(<<"report">>, Operation, <<"chunks">>) =:= <<"chunks">>,
    Take = maps:get(<<"take">>, Operation, infinity),
    SlowEvery = maps:get(<<"slow_every">>, Operation, infinity),
    SlowMs = maps:get(<<"slow_ms">>, Operation, 0),
    fun(#{<<"type">> := Type} = Chunk, {InOrder, _}) ->
        Place = counters:get(Count, 1),
        counters:add(Count, 1, 1),
        Report andalso event(State, Ref, chunk, #{chunk => Chunk}),
        is_integer(SlowEvery) andalso (Place + 1) rem SlowEvery =:= 0 andalso timer:sleep(SlowMs),
        case Type =/= <<"chunk">> orelse maps:get(<<"n">>, Chunk, none) =:= Place of
            _ when Place + 1 =:= Take -> {stop, {left, erlang:monotonic_time()}};
            Right -> {InOrder andalso Right, Type}
        end
    end.

options(Operation) ->
    Given = [{timeout, <<"timeout_ms">>}, {credit, <<"credit">>}, {retries, <<"retries">>}],
    Options = maps:from_list([{Key, map_get(Name, Operation)} || {Key, Name} <- Given, is_map_key(Name, Operation)]),
    Options#{tools => maps:with(maps:get(<<"tools">>, Operation, []), tools())}.

tools() ->
    Number = #{type => number},
    #{
        <<"add">> => #{
            desc => <<"The sum of two numbers.">>,
            args => #{a => Number, b => Number},
            'fun' => fun(#{<<"a">> := A, <<"b">> := B}) -> A + B end
        },
        <<"echo">> => #{
            desc => <<"The value itself.">>,
            args => #{value => #{}},
            'fun' => fun(#{<<"value">> := Value}) -> Value end
        },
        <<"fail">> => #{desc => <<"Fails.">>, args => #{}, 'fun' => fun(_) -> error("the tool failed") end},
        <<"hang">> => #{
            desc => <<"Never returns.">>,
            args => #{},
            'fun' => fun(_) -> receive never -> ok end end
        },
        <<"late">> => #{
            desc => <<"Returns after a while.">>,
            args => #{ms => #{type => integer}},
            'fun' => fun(#{<<"ms">> := Ms}) -> timer:sleep(Ms), <<"late">> end
        }
    }.
