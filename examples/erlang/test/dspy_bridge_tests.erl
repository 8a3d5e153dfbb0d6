%% The client with real workers, and with shell scripts where a worker must behave as none does. PYTHON names
%% the interpreter; the current directory is the repository's root.
-module(dspy_bridge_tests).
-include_lib("stdlib/include/assert.hrl").
%% What eunit.hrl would do: Debian has that in a package of its own.
-compile({parse_transform, eunit_autoexport}).

-export([serve/1, ask_from_afar/1, hold_from_afar/1]).

worker() ->
    [os:getenv("PYTHON", "python3"), "-m", "bridge", "serve", "--commands", "tests.support.commands"].

%% A worker that is a shell script.
script(Lines) ->
    ["/bin/sh", "-c", lists:join($\n, Lines)].

ready() ->
    "echo '{\"id\":null,\"type\":\"ready\",\"protocol\":1}'".

start(Options) ->
    {ok, Bridge} = dspy_bridge:start_link(Options),
    Bridge.

%% A server of its own for a test.
with(Options, Test) ->
    {setup, fun() -> start(Options) end, fun dspy_bridge:stop/1, fun(Bridge) ->
        {timeout, 30, fun() -> Test(Bridge) end}
    end}.

eventually(What) ->
    eventually(What, erlang:monotonic_time(millisecond) + 5000).

eventually(What, Until) ->
    case What() of
        true ->
            ok;
        false ->
            ?assert(erlang:monotonic_time(millisecond) < Until),
            timer:sleep(5),
            eventually(What, Until)
    end.

is_alive(OsPid) ->
    filelib:is_dir("/proc/" ++ integer_to_list(OsPid)).

%% Milliseconds that something took, and what it gave.
timed(What) ->
    {Microseconds, Value} = timer:tc(What),
    {Microseconds / 1000, Value}.

%% ---- requests --------------------------------------------------------------------------------------

requests_test_() ->
    Tests = [
        {"calls", fun calls/1},
        {"folds", fun folds/1},
        {"a fold that stops", fun fold_stops/1},
        {"a fold that raises", fun fold_raises/1},
        {"streams", fun streams/1},
        {"a window", fun window/1},
        {"cancel", fun cancels/1},
        {"an owner that dies", fun owner_dies/1},
        {"errors", fun errors/1},
        {"args that are no JSON", fun no_json/1},
        {"time", fun deadlines/1},
        {"trace context", fun traceparent/1},
        {"megabytes", fun megabytes/1},
        {"tools", fun tools/1},
        {"tools that fail", fun failing_tools/1},
        {"a tool that hangs", fun hanging_tool/1},
        {"more than the worker reads", fun too_long/1},
        {"wrong options", fun wrong_options/1},
        {"a tool prints where its caller does", fun printing_tool/1},
        {"the state that is logged", fun status/1}
    ],
    [
        {setup, fun() -> start(#{argv => worker(), framing => Framing}) end, fun dspy_bridge:stop/1,
            fun(Bridge) ->
                [
                    {atom_to_list(Framing) ++ ": " ++ Title, {timeout, 30, fun() -> Test(Bridge) end}}
                 || {Title, Test} <- Tests
                ]
            end}
     || Framing <- [lines, packet4]
    ].

calls(Bridge) ->
    Text = <<"é€😀 \n"/utf8, 16#2028/utf8>>,
    Args = #{text => Text, nothing => null, list => [1, [], #{}]},
    {ok, Chunk} = dspy_bridge:call(Bridge, <<"kit.echo">>, Args),
    Echo = #{<<"text">> => Text, <<"nothing">> => null, <<"list">> => [1, [], #{}]},
    ?assertMatch(#{<<"type">> := <<"result">>, <<"seq">> := 0, <<"done">> := true, <<"echo">> := Echo}, Chunk),
    ?assertMatch({ok, #{<<"type">> := <<"pong">>}}, dspy_bridge:call(Bridge, ping, #{}, #{timeout => 5000})),
    ?assertMatch({ok, #{<<"type">> := <<"complete">>}}, dspy_bridge:call(Bridge, 'kit.count', #{n => 500})).

folds(Bridge) ->
    Collect = fun
        (#{<<"type">> := <<"chunk">>, <<"n">> := N}, Ns) -> [N | Ns];
        (#{<<"type">> := <<"complete">>, <<"seq">> := 1000}, Ns) -> lists:reverse(Ns)
    end,
    Fold = fun(Credit) ->
        dspy_bridge:fold(Bridge, 'kit.count', #{n => 1000}, Collect, [], #{credit => Credit})
    end,
    [?assertEqual({ok, lists:seq(0, 999)}, Fold(Credit)) || Credit <- [1, 2, 7, 64, 100000]].

fold_stops(Bridge) ->
    Stop = fun
        (_Chunk, 9) -> {stop, ten};
        (_Chunk, N) -> N + 1
    end,
    {Ms, Result} = timed(fun() -> dspy_bridge:fold(Bridge, 'kit.count', #{n => 10000000}, Stop, 0, #{}) end),
    ?assertEqual({ok, ten}, Result),
    ?assert(Ms < 1000),
    nothing_is_left(Bridge).

fold_raises(Bridge) ->
    Raise = fun(_Chunk, _) -> throw(enough) end,
    ?assertThrow(enough, dspy_bridge:fold(Bridge, 'kit.flood', #{}, Raise, 0, #{})),
    nothing_is_left(Bridge).

%% Neither in the worker nor in this process's mailbox, now or later.
nothing_is_left(Bridge) ->
    eventually(fun() ->
        {ok, #{<<"running">> := Running}} = dspy_bridge:call(Bridge, stats, #{}),
        Running =:= 1
    end),
    ?assertEqual({messages, []}, process_info(self(), messages)),
    ?assertEqual({monitors, []}, process_info(self(), monitors)).

streams(Bridge) ->
    {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.count', #{n => 300}, #{credit => 10}),
    Chunks = collect(Ref),
    ?assertEqual(lists:seq(0, 300), [Seq || #{<<"seq">> := Seq} <- Chunks]),
    ?assertMatch(#{<<"type">> := <<"complete">>}, lists:last(Chunks)),
    nothing_is_left(Bridge).

collect(Ref) ->
    receive
        {dspy_bridge, Ref, Part} ->
            case dspy_bridge:take(Part) of
                {more, Chunks} -> Chunks ++ collect(Ref);
                {done, Chunks} -> Chunks;
                {error, Error, Chunks} -> Chunks ++ [Error]
            end
    end.

%% Who takes nothing is sent no more than the window, and others are served.
window(Bridge) ->
    Counted = fun() ->
        {ok, #{<<"seen">> := Seen}} = dspy_bridge:call(Bridge, 'kit.seen', #{}),
        maps:get(<<"flooded">>, Seen, 0)
    end,
    Before = Counted(),
    {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.flood', #{}, #{credit => 8}),
    eventually(fun() -> Counted() >= Before + 8 end),
    [dspy_bridge:call(Bridge, ping, #{}) || _ <- lists:seq(1, 50)],
    ?assert(Counted() =< Before + 16),
    {messages, Messages} = process_info(self(), messages),
    ?assert(length(Messages) =< 8),
    dspy_bridge:cancel(Bridge, Ref),
    nothing_is_left(Bridge).

cancels(Bridge) ->
    {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.flood', #{}, #{}),
    receive
        {dspy_bridge, Ref, Part} -> ?assertMatch({more, [_ | _]}, dspy_bridge:take(Part))
    end,
    ok = dspy_bridge:cancel(Bridge, Ref),
    ok = dspy_bridge:cancel(Bridge, Ref),
    nothing_is_left(Bridge).

owner_dies(Bridge) ->
    {Owner, Monitor} = spawn_monitor(fun() ->
        {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.hold', #{gate => owner}, #{}),
        receive
            {dspy_bridge, Ref, _} -> exit(seen)
        end
    end),
    receive
        {'DOWN', Monitor, process, Owner, Reason} -> ?assertEqual(seen, Reason)
    end,
    nothing_is_left(Bridge).

errors(Bridge) ->
    ?assertMatch(
        {error, #{code := <<"unknown_command">>, retryable := false, message := <<_, _/binary>>, details := #{}}},
        dspy_bridge:call(Bridge, 'kit.ecko', #{})
    ),
    Count = fun(_Chunk, N) -> N + 1 end,
    ?assertMatch(
        {error, #{code := <<"lm_rate_limit">>, retryable := true, retry_after_ms := 1200}, 3},
        dspy_bridge:fold(Bridge, 'kit.fail', #{how => bridge, 'after' => 3}, Count, 0, #{})
    ),
    {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.fail', #{how => bridge, 'after' => 1}, #{}),
    ?assertMatch([#{<<"n">> := 0}, #{code := <<"lm_rate_limit">>}], collect(Ref)),
    nothing_is_left(Bridge).

no_json(Bridge) ->
    Args = #{pid => self()},
    ?assertMatch({error, #{code := <<"invalid_args">>}}, dspy_bridge:call(Bridge, ping, Args)),
    ?assertMatch({error, #{code := <<"invalid_args">>}}, dspy_bridge:stream(Bridge, ping, Args, #{})),
    Folded = dspy_bridge:fold(Bridge, ping, Args, fun max/2, acc, #{}),
    ?assertMatch({error, #{code := <<"invalid_args">>}, acc}, Folded).

deadlines(Bridge) ->
    {Ms, Result} = timed(fun() -> dspy_bridge:call(Bridge, 'kit.hold', #{gate => time}, #{timeout => 100}) end),
    ?assertMatch({error, #{code := <<"deadline_exceeded">>, retryable := true}}, Result),
    ?assert(Ms >= 100),
    {ok, #{<<"remaining_ms">> := Remaining}} = dspy_bridge:call(Bridge, 'kit.context', #{}, #{timeout => 60000}),
    ?assert(Remaining > 50000 andalso Remaining =< 60000).

traceparent(Bridge) ->
    Context = <<"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01">>,
    ?assertMatch(
        {ok, #{<<"traceparent">> := Context}},
        dspy_bridge:call(Bridge, 'kit.context', #{}, #{traceparent => Context})
    ).

megabytes(Bridge) ->
    Text = binary:copy(<<"é€"/utf8>>, 200000),
    ?assertMatch({ok, #{<<"echo">> := #{<<"t">> := Text}}}, dspy_bridge:call(Bridge, 'kit.echo', #{t => Text})),
    Sizes = fun
        (#{<<"text">> := Long}, Sum) -> Sum + byte_size(Long);
        (#{<<"done">> := true}, Sum) -> Sum
    end,
    Args = #{n => 20, size => 1000000},
    ?assertEqual({ok, 20000000}, dspy_bridge:fold(Bridge, 'kit.count', Args, Sizes, 0, #{credit => 4})).

status(Bridge) ->
    {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.hold', #{gate => status, key => <<"sk-secret">>}, #{}),
    Shown = lists:flatten(io_lib:format("~p", [sys:get_status(Bridge)])),
    ?assertEqual(nomatch, string:find(Shown, "sk-secret")),
    dspy_bridge:cancel(Bridge, Ref).

%% ---- tools -----------------------------------------------------------------------------------------

tool(Bridge, Fun, Args) ->
    Tools = #{t => #{desc => <<"A tool.">>, args => #{a => #{type => integer}}, 'fun' => Fun}},
    Options = #{tools => Tools, timeout => 10000},
    {ok, Chunk} = dspy_bridge:call(Bridge, 'kit.tool', #{name => t, args => Args}, Options),
    Chunk.

tools(Bridge) ->
    Twice = fun(#{<<"a">> := A}) -> #{twice => A * 2, node => node()} end,
    Node = atom_to_binary(node()),
    ?assertMatch(#{<<"value">> := #{<<"twice">> := 42, <<"node">> := Node}}, tool(Bridge, Twice, #{a => 21})),
    %% What is declared stands beside the worker's own tools.
    Options = #{tools => #{<<"t">> => #{desc => <<"A tool.">>, args => #{}, 'fun' => Twice}}},
    {ok, #{<<"echo">> := Echo}} = dspy_bridge:call(Bridge, 'kit.echo', #{<<"tools">> => [<<"own">>]}, Options),
    Declared = #{<<"name">> => <<"t">>, <<"desc">> => <<"A tool.">>, <<"args">> => #{}},
    ?assertEqual(#{<<"tools">> => [<<"own">>, Declared]}, Echo).

failing_tools(Bridge) ->
    Failures = [
        {"no luck", fun(_) -> error("no luck") end},
        {"é€", fun(_) -> throw(<<"é€"/utf8>>) end},
        {"out of order", fun(_) -> {error, <<"out of order">>} end},
        {"enoent", fun(_) -> {error, enoent} end},
        {"badarith", fun(#{<<"a">> := A}) -> A / 0 end},
        {"over", fun(_) -> exit(over) end},
        {"killed", fun(_) -> exit(self(), kill) end},
        {"no form in JSON", fun(_) -> self() end}
    ],
    [
        begin
            #{<<"error">> := Text} = tool(Bridge, Fun, #{a => 1}),
            ?assertNotEqual({Words, nomatch}, {Words, string:find(Text, unicode:characters_to_binary(Words))}),
            ?assertEqual(nomatch, string:find(Text, <<"\n">>))
        end
     || {Words, Fun} <- Failures
    ].

hanging_tool(Bridge) ->
    Test = self(),
    Hang = fun(_) ->
        Test ! {tool, self()},
        receive
            never -> ok
        end
    end,
    Options = #{tools => #{t => #{'fun' => Hang}}},
    {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.tool', #{name => t}, Options),
    Tool =
        receive
            {tool, Pid} -> Pid
        end,
    Monitor = erlang:monitor(process, Tool),
    dspy_bridge:cancel(Bridge, Ref),
    receive
        {'DOWN', Monitor, process, Tool, Reason} -> ?assertEqual(killed, Reason)
    end,
    nothing_is_left(Bridge).

printing_tool(Bridge) ->
    Leader = group_leader(),
    Test = self(),
    Tell = fun(_) ->
        Test ! {leader, group_leader()},
        null
    end,
    ?assertMatch(#{<<"value">> := null}, tool(Bridge, Tell, #{})),
    receive
        {leader, Found} -> ?assertEqual(Leader, Found)
    end.

%% ---- the worker's life -----------------------------------------------------------------------------

killed_worker_test_() ->
    with(#{argv => worker()}, fun(Bridge) ->
        Test = self(),
        Tell = fun
            (#{<<"type">> := <<"started">>}, Acc) -> Test ! started, Acc;
            (_Chunk, Acc) -> Acc
        end,
        Hold = fun(N) -> dspy_bridge:fold(Bridge, 'kit.hold', #{gate => N}, Tell, N, #{}) end,
        Callers = [spawn_monitor(fun() -> exit(Hold(N)) end) || N <- lists:seq(1, 5)],
        [receive started -> ok end || _ <- Callers],
        Before = dspy_bridge:os_pid(Bridge),
        os:cmd("kill -KILL " ++ integer_to_list(Before)),
        [
            receive
                {'DOWN', Monitor, process, Pid, {error, Error, _}} ->
                    ?assertMatch(
                        #{code := <<"worker_died">>, retryable := true, details := #{<<"signal">> := 9}}, Error
                    )
            end
         || {Pid, Monitor} <- Callers
        ],
        ?assertMatch({ok, _}, dspy_bridge:call(Bridge, ping, #{})),
        ?assertNotEqual(Before, dspy_bridge:os_pid(Bridge))
    end).

backoff_test_() ->
    {setup, fun() -> string:trim(os:cmd("mktemp -d")) end, fun file:del_dir_r/1, fun(Folder) ->
        %% The first is ready and ends with the first request; those after it are not even ready.
        Argv = script(["mkdir " ++ Folder ++ "/once || exit 7", ready(), "read line", "exit 3"]),
        with(#{argv => Argv, patience => 200}, fun(Bridge) ->
            ?assertEqual(ok, dspy_bridge:await_ready(Bridge, 5000)),
            {error, Died} = dspy_bridge:call(Bridge, ping, #{}),
            ?assertMatch(#{code := <<"worker_died">>, details := #{<<"exit_code">> := 3}}, Died),
            %% The next start is at once, those after it are not.
            [first | Waits] = [
                begin
                    {Ms, {error, #{code := <<"start_failed">>, message := Message}}} =
                        timed(fun() -> dspy_bridge:await_ready(Bridge, 5000) end),
                    ?assertNotEqual(nomatch, string:find(Message, <<"exit code 7">>)),
                    case At of
                        first -> first;
                        _ -> {Ms >= At * 0.9, At}
                    end
                end
             || At <- [first, 100, 200, 400]
            ],
            ?assertEqual([{true, 100}, {true, 200}, {true, 400}], Waits),
            %% The next one would be in 800 ms: requests have less patience.
            ?assertMatch(
                {error, #{code := <<"start_failed">>, retryable := true}}, dspy_bridge:call(Bridge, ping, #{})
            )
        end)
    end}.

%% Whoever asks is told at once as long as no worker was ever ready.
never_started_test_() ->
    Failing = [
        {"There is no program /no/such/worker.", ["/no/such/worker"], #{}},
        {"exit code 5", script(["exit 5"]), #{}},
        {"exit code 0", script(["exit 0"]), #{}},
        {"signal 15", script(["kill -TERM $$"]), #{}},
        {"Welcome", script(["echo Welcome!", "exec sleep 60"]), #{}},
        {"in time", script(["exec sleep 60"]), #{ready_timeout => 100}}
    ],
    [
        {Words,
            with(Options#{argv => Argv}, fun(Bridge) ->
                {error, Error} = dspy_bridge:call(Bridge, ping, #{}),
                ?assertMatch(#{code := <<"start_failed">>, retryable := false}, Error),
                ?assertNotEqual(nomatch, string:find(map_get(message, Error), Words)),
                ?assertMatch({error, #{code := <<"start_failed">>}}, dspy_bridge:await_ready(Bridge, 5000))
            end)}
     || {Words, Argv, Options} <- Failing
    ].

environment_test_() ->
    Result = "'{\"id\":1,\"seq\":0,\"type\":\"result\",\"x\":\"%s\",\"cwd\":\"%s\",\"done\":true}\\n'",
    Argv = script([ready(), "read line", "printf " ++ Result ++ " \"$X\" \"$PWD\"", "read line"]),
    with(#{argv => Argv, env => [{<<"X">>, "é"}, {"HOME", false}], cd => <<"/">>}, fun(Bridge) ->
        {ok, Chunk} = dspy_bridge:call(Bridge, ping, #{}),
        ?assertMatch(#{<<"x">> := <<"é"/utf8>>, <<"cwd">> := <<"/">>}, Chunk)
    end).

%% The server looks after others while one worker's stdin is full, and the time of a request runs.
worker_that_does_not_read_test_() ->
    with(#{argv => worker()}, fun(Bridge) ->
        ok = dspy_bridge:await_ready(Bridge, 10000),
        OsPid = integer_to_list(dspy_bridge:os_pid(Bridge)),
        os:cmd("kill -STOP " ++ OsPid),
        Args = #{text => binary:copy(<<"x">>, 4000000)},
        {Ms, Result} = timed(fun() -> dspy_bridge:call(Bridge, 'kit.echo', Args, #{timeout => 100}) end),
        ?assertMatch({error, #{code := <<"deadline_exceeded">>}}, Result),
        ?assert(Ms < 4000),
        os:cmd("kill -CONT " ++ OsPid),
        ?assertMatch({ok, _}, dspy_bridge:call(Bridge, ping, #{}))
    end).

stop_test_() ->
    {timeout, 30, fun() ->
        Bridge = start(#{argv => worker()}),
        {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.count', #{n => 20, pause_ms => 20}, #{}),
        ok = dspy_bridge:await_ready(Bridge, 10000),
        OsPid = dspy_bridge:os_pid(Bridge),
        ok = dspy_bridge:stop(Bridge),
        %% What was running has ended well.
        ?assertEqual(21, length(collect(Ref))),
        ?assertNot(is_alive(OsPid)),
        ?assertNot(is_process_alive(Bridge)),
        ?assertMatch({error, #{code := <<"closed">>}}, dspy_bridge:call(Bridge, ping, #{})),
        ?assertMatch({error, #{code := <<"closed">>}}, dspy_bridge:await_ready(Bridge, 1000)),
        ?assertEqual(ok, dspy_bridge:stop(Bridge))
    end}.

%% As a supervisor ends it.
shutdown_test_() ->
    {timeout, 30, fun() ->
        process_flag(trap_exit, true),
        Bridge = start(#{argv => worker()}),
        {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.hold', #{}, #{}),
        ok = dspy_bridge:await_ready(Bridge, 10000),
        OsPid = dspy_bridge:os_pid(Bridge),
        exit(Bridge, shutdown),
        ?assertMatch(#{code := <<"closed">>}, lists:last(collect(Ref))),
        eventually(fun() -> not is_alive(OsPid) end)
    end}.

killed_server_test_() ->
    {timeout, 30, fun() ->
        process_flag(trap_exit, true),
        Bridge = start(#{argv => worker()}),
        ok = dspy_bridge:await_ready(Bridge, 10000),
        OsPid = dspy_bridge:os_pid(Bridge),
        {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.hold', #{}, #{}),
        Kill = fun(_Chunk, _) -> exit(Bridge, kill) end,
        Folded = dspy_bridge:fold(Bridge, 'kit.hold', #{}, Kill, false, #{}),
        ?assertMatch({error, #{code := <<"closed">>}, true}, Folded),
        receive
            {'DOWN', Ref, process, Bridge, killed} -> ok
        end,
        eventually(fun() -> not is_alive(OsPid) end)
    end}.

names_test_() ->
    {setup,
        fun() -> {ok, Bridge} = dspy_bridge:start_link({local, bridge_of_a_name}, #{argv => worker()}), Bridge end,
        fun dspy_bridge:stop/1,
        [
            fun() -> ?assertMatch({ok, _}, dspy_bridge:call(bridge_of_a_name, ping, #{})) end,
            fun() -> ?assertMatch({ok, _}, dspy_bridge:call({bridge_of_a_name, node()}, ping, #{})) end,
            fun() -> ?assertMatch({error, #{code := <<"closed">>}}, dspy_bridge:call(no_bridge, ping, #{})) end,
            fun() ->
                Nowhere = {no_bridge, 'no@127.0.0.1'},
                ?assertMatch({error, #{code := <<"closed">>}}, dspy_bridge:call(Nowhere, ping, #{}))
            end
        ]}.

%% ---- from another node -----------------------------------------------------------------------------

%% Two nodes without the port mapper: one listens where the other looks for it.
remote_test_() ->
    {setup,
        fun() ->
            Port = free_port(),
            {node_of(Port, true), node_of(Port, false)}
        end,
        fun({{Server, _}, {Client, _}}) -> [catch peer:stop(Peer) || Peer <- [Server, Client]] end,
        fun({{Server, ServerNode}, {Client, ClientNode}}) ->
            {timeout, 30, fun() ->
                ok = peer:call(Server, ?MODULE, serve, [worker()]),
                Bridge = {bridge, ServerNode},
                {Calls, Tool, Chunks} = peer:call(Client, ?MODULE, ask_from_afar, [Bridge], 20000),
                ?assertMatch({ok, #{<<"type">> := <<"pong">>}}, Calls),
                %% A tool runs where its function is.
                ?assertMatch({ok, #{<<"value">> := _}}, Tool),
                ?assertEqual({ok, atom_to_binary(ClientNode)}, maps:find(<<"value">>, element(2, Tool))),
                ?assertEqual({ok, 5001}, Chunks),
                %% A node that is gone waits for nothing any more.
                ok = peer:call(Client, ?MODULE, hold_from_afar, [Bridge], 20000),
                peer:stop(Client),
                eventually(fun() ->
                    {ok, #{<<"running">> := Running}} = peer:call(Server, dspy_bridge, call, [bridge, stats, #{}]),
                    Running =:= 1
                end),
                ok = peer:call(Server, dspy_bridge, stop, [bridge])
            end}
        end}.

free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    gen_tcp:close(Socket),
    integer_to_list(Port).

node_of(Port, Listens) ->
    Paths = lists:append([["-pa", filename:dirname(code:which(Module))] || Module <- [?MODULE, dspy_bridge]]),
    Flags = ["-start_epmd", "false", "-erl_epmd_port", Port, "-dist_listen", atom_to_list(Listens)],
    {ok, Peer, Node} = peer:start(#{
        name => peer:random_name(),
        host => "127.0.0.1",
        longnames => true,
        connection => standard_io,
        args => Flags ++ ["-setcookie", "dspy_bridge_tests" | Paths]
    }),
    {Peer, Node}.

%% Runs on the server's node.
serve(Argv) ->
    Caller = self(),
    spawn(fun() ->
        {ok, Bridge} = dspy_bridge:start_link({local, bridge}, #{argv => Argv}),
        Caller ! {serving, dspy_bridge:await_ready(Bridge, 10000)},
        Monitor = erlang:monitor(process, Bridge),
        receive
            {'DOWN', Monitor, process, Bridge, _} -> ok
        end
    end),
    receive
        {serving, Ready} -> Ready
    end.

%% Runs on the client's node.
ask_from_afar(Bridge) ->
    Tools = #{where => #{'fun' => fun(_) -> atom_to_binary(node()) end}},
    {
        dspy_bridge:call(Bridge, ping, #{}),
        dspy_bridge:call(Bridge, 'kit.tool', #{name => where}, #{tools => Tools}),
        dspy_bridge:fold(Bridge, 'kit.count', #{n => 5000}, fun(_Chunk, N) -> N + 1 end, 0, #{})
    }.

hold_from_afar(Bridge) ->
    Caller = self(),
    spawn(fun() ->
        {ok, Ref} = dspy_bridge:stream(Bridge, 'kit.hold', #{}, #{}),
        receive
            {dspy_bridge, Ref, _} -> Caller ! held
        end,
        receive
            never -> ok
        end
    end),
    receive
        held -> ok
    end.

%% ---- what the worker would not take ----------------------------------------------------------------

too_long(Bridge) ->
    Long = binary:copy(<<"x">>, 9000000),
    Request = dspy_bridge:call(Bridge, 'kit.echo', #{text => Long}),
    ?assertMatch({error, #{code := <<"line_too_long">>, retryable := false}}, Request),
    Tools = #{long => #{'fun' => fun(_) -> Long end}},
    {ok, #{<<"error">> := Text}} = dspy_bridge:call(Bridge, 'kit.tool', #{name => long}, #{tools => Tools}),
    ?assertEqual(<<"The tool's answer is longer than the worker reads.">>, Text),
    ?assertMatch({ok, _}, dspy_bridge:call(Bridge, ping, #{})).

wrong_options(Bridge) ->
    Requests = [{timeout, 0}, {timeout, 1.5}, {timeout, <<"1">>}, {credit, 0}, {retries, -1}, {timout, 1}],
    [
        ?assertError({bad_option, Name, Value}, dspy_bridge:call(Bridge, ping, #{}, #{Name => Value}))
     || {Name, Value} <- Requests
    ],
    Starts = [{argv, []}, {argv, ["sh", 1]}, {framing, packet}, {env, [{"A", 1}]}, {ready_timeout, "1"}],
    [
        ?assertError({bad_option, Name, Value}, dspy_bridge:start_link(#{Name => Value}))
     || {Name, Value} <- Starts
    ].

%% Each worker takes one request, which the repeated configuration is.
worn_out_test_() ->
    Model = ["--model", "scripted", "--script", "examples/quickstart.script.jsonl"],
    with(#{argv => worker() ++ Model ++ ["--max-requests", "1"], patience => 4000}, fun(Bridge) ->
        {ok, _} = dspy_bridge:configure(Bridge, #{name => m, lm => #{model => scripted}}),
        {error, #{code := Code, message := Message}} = dspy_bridge:call(Bridge, ping, #{}),
        ?assertEqual(<<"start_failed">>, Code),
        ?assertNotEqual(nomatch, string:find(Message, "exit code 0"))
    end).

%% The second worker does not answer its configuration; the third one does.
hung_at_its_configuration_test_() ->
    File = "/tmp/dspy_bridge_hung_" ++ os:getpid(),
    Answer = fun(Id) -> io_lib:format("echo '{\"id\":~b,\"seq\":0,\"type\":\"result\",\"done\":true}'", [Id]) end,
    Lines = [
        ready(),
        "echo x >> " ++ File,
        "case $(wc -l < " ++ File ++ ") in",
        "1) read a; " ++ Answer(1) ++ "; read b; exit 9;;",
        "2) read a; read b;;",
        "*) read a; " ++ Answer(4) ++ "; read b;;",
        "esac"
    ],
    {setup, fun() -> start(#{argv => script(Lines), ready_timeout => 300}) end,
        fun(Bridge) ->
            dspy_bridge:stop(Bridge, 0),
            file:delete(File)
        end,
        fun(Bridge) ->
            {timeout, 30, fun() ->
                {ok, _} = dspy_bridge:configure(Bridge, #{lm => #{model => m}}),
                {error, #{code := <<"worker_died">>}} = dspy_bridge:call(Bridge, x, #{}),
                eventually(fun() -> dspy_bridge:await_ready(Bridge, 5000) =:= ok end)
            end}
        end}.
