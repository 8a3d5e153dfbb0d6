%% @private
%% The server behind dspy_bridge: one worker, the requests that run in it, and what they wait for.
%%
%% Requests are kept by the id that they are sent with; a reference of their owner's, at once a monitor of this
%% server and the alias that parts are sent to, leads to the id. A request that can not be sent yet, or that has
%% to be sent again, is one that is not `sent'.
-module(dspy_bridge_server).
-behaviour(gen_server).

-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2, format_status/1]).
-export([run_tool/4]).

-define(LIMIT, 8388608).

-record(request, {
    ref :: reference() | undefined,
    owner :: pid() | undefined,
    monitor :: reference() | undefined,
    group_leader :: pid() | undefined,
    %% The middle of the line. Forgotten with the first chunk: it can not be needed again.
    body :: binary() | undefined,
    credit :: pos_integer(),
    retries :: non_neg_integer(),
    tools :: #{binary() => fun((map()) -> term())},
    %% A configuration of this name, to be remembered once it has succeeded.
    configures :: false | {true, term()},
    deadline :: integer() | undefined,
    timer :: reference() | undefined,
    %% Milliseconds that it may still wait for a worker, all times together.
    patience :: non_neg_integer(),
    sent = false :: boolean(),
    seq = 0 :: non_neg_integer(),
    taken = 0 :: non_neg_integer(),
    lines = [] :: [binary()]
}).

-record(state, {
    options :: dspy_bridge:start_options(),
    done = dspy_bridge_line:done_pattern() :: binary:cp(),
    phase = down :: down | starting | configuring | ready | leaving | stopped,
    port :: port() | undefined,
    %% How long a line may be that the worker reads.
    limit = ?LIMIT :: pos_integer(),
    os_pid :: pos_integer() | undefined,
    writer :: pid() | undefined,
    %% What has come of a line that is not complete, backwards.
    begun = [] :: [binary()],
    exit_status :: non_neg_integer() | undefined,
    eof = false :: boolean(),
    timer :: reference() | undefined,
    ready_at :: integer() | undefined,
    ever_ready = false :: boolean(),
    %% Whether this worker has answered anybody.
    served = false :: boolean(),
    %% Whether it has said, before it was ready, that it takes nothing new.
    unwilling = false :: boolean(),
    failures = 0 :: non_neg_integer(),
    last_error :: dspy_bridge:error() | undefined,
    next_id = 1 :: pos_integer(),
    requests = #{} :: #{pos_integer() => #request{}},
    ids = #{} :: #{reference() => pos_integer()},
    %% Requests with lines that have not been sent to their owners.
    touched = [] :: [pos_integer()],
    tools = #{} :: #{pid() => {pos_integer(), binary()}},
    configured = [] :: [{term(), binary()}],
    awaiting = [] :: [gen_server:from()],
    stopping = [] :: [gen_server:from()]
}).

-define(READY_MS, 30000).
-define(PATIENCE_MS, 30000).
-define(CREDIT, 64).
%% How long after its time the client ends a request itself, and kills a worker that was told to end.
-define(LATE_MS, 2000).
%% How long an exit status may come after the end of the output, or the other way round.
-define(LINGER_MS, 1000).
-define(BACKOFF_MS, 100).
-define(MAX_BACKOFF_MS, 10000).
-define(HEALTHY_MS, 10000).
%% Lines taken from the mailbox at once.
-define(BATCH, 256).

%% @private
init(Options) ->
    process_flag(trap_exit, true),
    %% Lines of a flood are not copied again and again with the heap that they are queued at.
    process_flag(message_queue_data, off_heap),
    process_flag(fullsweep_after, 20),
    {ok, #state{options = Options}, {continue, start}}.

%% @private
handle_continue(start, State) ->
    next(start(State)).

%% @private
handle_call(await_ready, _From, #state{phase = ready} = State) ->
    {reply, ok, State};
handle_call(await_ready, _From, #state{ever_ready = false, last_error = #{} = Error} = State) ->
    {reply, {error, Error}, State};
handle_call(await_ready, From, State) ->
    {noreply, State#state{awaiting = [From | State#state.awaiting]}};
handle_call(os_pid, _From, State) ->
    {reply, State#state.os_pid, State};
handle_call({stop, GraceMs}, From, State) ->
    next(stop_worker(GraceMs, State#state{stopping = [From | State#state.stopping]})).

%% @private
handle_cast({request, Request}, State) ->
    {noreply, accept(Request, State)};
handle_cast({taken, Ref, Count}, State) ->
    {noreply, with_request(Ref, fun(Id, Request) -> grant(Id, Request, Count, State) end, State)};
handle_cast({cancel, Ref}, State) ->
    {noreply, with_request(Ref, fun(Id, Request) -> abandon(Id, Request, State) end, State)};
handle_cast({torn, Port, Ref, Line}, State) ->
    Others = with_request(Ref, fun(Id, Request) -> drop(Id, Request, State) end, State),
    case State of
        #state{port = Port} when Port =/= undefined -> next(down(dspy_bridge_error:torn(Line), Others));
        #state{} -> {noreply, Others}
    end;
handle_cast(_Unknown, State) ->
    {noreply, State}.

%% @private
handle_info({Port, {data, Data}}, #state{port = Port} = State) ->
    next(hand_out(more_data(?BATCH, data(Data, State))));
handle_info({Port, {exit_status, Status}}, #state{port = Port} = State) ->
    next(ending(State#state{exit_status = Status}));
handle_info({Port, eof}, #state{port = Port} = State) ->
    next(ending(State#state{eof = true}));
handle_info({'EXIT', Port, _Reason}, #state{port = Port} = State) when is_port(Port) ->
    next(down(ended_error(State), State));
handle_info({'EXIT', Pid, Reason}, State) when is_map_key(Pid, State#state.tools) ->
    {noreply, tool_answered(Pid, {error, ["The tool has ended: ", text(Reason)]}, State)};
handle_info({tool_answer, Pid, Answer}, State) when is_map_key(Pid, State#state.tools) ->
    {noreply, tool_answered(Pid, Answer, State)};
handle_info({'DOWN', Monitor, process, _Pid, _Reason}, State) ->
    {noreply, with_request(Monitor, fun(Id, Request) -> abandon(Id, Request, State) end, State)};
handle_info({timeout, Timer, Event}, State) ->
    next(timeout(Event, Timer, State));
handle_info(_Late, State) ->
    {noreply, State}.

%% @private
%% Closing its pipes ends the worker within a second.
terminate(_Reason, #state{port = Port} = State) ->
    fail_all(dspy_bridge_error:closed(), State),
    is_port(Port) andalso dspy_bridge_port:close(Port),
    ok.

%% @private
%% What logs may show of the state: no keys of models.
format_status(#{state := #state{} = State} = Status) ->
    Status#{state := State#state{options = #{}, configured = [], begun = [], requests = #{}}};
format_status(Status) ->
    Status.

next(#state{phase = stopped} = State) -> {stop, normal, State};
next(State) -> {noreply, State}.

%% ---- the worker's life -----------------------------------------------------------------------------

start(#state{options = Options} = State) ->
    case dspy_bridge_port:open(Options) of
        {ok, Port} ->
            State#state{
                phase = starting,
                served = false,
                port = Port,
                os_pid = dspy_bridge_port:os_pid(Port),
                writer = dspy_bridge_port:start_writer(Port),
                timer = after_ms(maps:get(ready_timeout, Options, ?READY_MS), not_ready)
            };
        {error, Error} ->
            down(Error, State)
    end.

up(State) ->
    [gen_server:reply(From, ok) || From <- State#state.awaiting],
    stop_timer(State#state.timer),
    Ready = State#state{phase = ready, awaiting = [], last_error = undefined, timer = undefined},
    lists:foldl(
        fun({Id, Request}, Sending) -> send(Id, Request, Sending) end,
        Ready,
        lists:sort(maps:to_list(Ready#state.requests))
    ).

%% The ends of the output and of the process are told apart, in any order, and one may fail to come. Neither
%% is told before the process is gone and its output closed: a process that the worker leaves behind with
%% the output open hides its end until something is written, which then fails.
ending(#state{eof = true, exit_status = Status} = State) when Status =/= undefined ->
    down(ended_error(State), State);
ending(State) ->
    stop_timer(State#state.timer),
    State#state{timer = after_ms(?LINGER_MS, ended)}.

ended_error(#state{phase = Phase, exit_status = Status}) when Phase =:= starting; Phase =:= configuring ->
    Values = [dspy_bridge_error:status(Status)],
    dspy_bridge_error:start_failed("The worker ended before it was ready (~ts).", Values);
ended_error(#state{exit_status = Status}) ->
    dspy_bridge_error:died(Status).

%% There is no worker any more, for the reason that is given: who waits for it is told, and it is started
%% again, unless the server is being stopped.
down(Error, #state{phase = Phase, stopping = Stopping} = State) ->
    Closed = close(State),
    case Phase of
        _ when Stopping =/= [] ->
            Failed = fail_all(Error, Closed),
            [gen_server:reply(From, ok) || From <- Stopping],
            Failed#state{phase = stopped, stopping = []};
        _ when Phase =:= down; Phase =:= starting; Phase =:= configuring ->
            restart(not_started(Error, lose(Error, Closed)));
        leaving when State#state.exit_status =:= 0, State#state.served ->
            %% It had said that it would, and has been of use: it has not failed.
            start_in(0, lose(Error, Closed));
        leaving when State#state.exit_status =:= 0 ->
            restart(lose(Error, Closed#state{last_error = Error}));
        _ ->
            logger:warning("dspy_bridge: ~ts", [map_get(message, Error)]),
            restart(lose(Error, Closed#state{phase = down}))
    end.

%% Until a worker has been ready once it is the command line that is wrong, not the moment: nobody is left
%% waiting for that to change, or will be before it has.
not_started(Error, #state{ever_ready = Ever, awaiting = Awaiting} = State) ->
    Told = Awaiting =/= [] orelse (not Ever andalso map_size(State#state.requests) > 0),
    Told orelse logger:warning("dspy_bridge: ~ts", [map_get(message, Error)]),
    [gen_server:reply(From, {error, Error}) || From <- Awaiting],
    Failed = State#state{last_error = Error, awaiting = []},
    case Ever of
        true -> Failed;
        false -> fail_all(Error, Failed)
    end.

%% Requests that had been sent have failed; those that may be are sent to the next worker. A worker that said
%% that it would end has never begun what it has left without a chunk.
lose(Error, #state{phase = Phase} = State) ->
    Lost = fun
        (_Id, #request{sent = false}, Losing) ->
            Losing;
        (Id, #request{ref = undefined} = Request, Losing) ->
            drop(Id, Request, Losing);
        (Id, #request{seq = 0} = Request, Losing) when Phase =:= leaving ->
            wait(Id, Request, Losing);
        (Id, #request{seq = 0, retries = Retries} = Request, Losing) when
            Retries > 0, map_get(code, Error) =:= <<"worker_died">>
        ->
            wait(Id, Request#request{retries = Retries - 1}, Losing);
        (Id, Request, Losing) ->
            fail(Id, Request, Error, Losing)
    end,
    maps:fold(Lost, State, State#state.requests).

%% At once when the last worker had lived for a while, then later and later.
restart(#state{ready_at = ReadyAt, failures = Failures} = State) ->
    case is_integer(ReadyAt) andalso now_ms() - ReadyAt >= ?HEALTHY_MS of
        true -> start_in(0, State#state{failures = 1});
        false when Failures =:= 0 -> start_in(0, State#state{failures = 1});
        false -> start_in(backoff(Failures), State#state{failures = Failures + 1})
    end.

backoff(Failures) -> min(?BACKOFF_MS bsl min(Failures - 1, 10), ?MAX_BACKOFF_MS).

start_in(Ms, State) ->
    State#state{phase = down, ready_at = undefined, timer = after_ms(Ms, start)}.

%% Nothing of the worker is left after this, the process included.
close(#state{port = Port, os_pid = OsPid, exit_status = Status} = State) ->
    stop_timer(State#state.timer),
    is_pid(State#state.writer) andalso exit(State#state.writer, kill),
    is_port(Port) andalso dspy_bridge_port:close(Port),
    is_integer(OsPid) andalso Status =:= undefined andalso dspy_bridge_port:is_running(OsPid) andalso
        dspy_bridge_port:kill(OsPid),
    State#state{
        port = undefined,
        os_pid = undefined,
        writer = undefined,
        unwilling = false,
        timer = undefined,
        begun = [],
        exit_status = undefined,
        eof = false
    }.

stop_worker(_GraceMs, #state{phase = Phase} = State) when Phase =:= down; Phase =:= starting ->
    down(dspy_bridge_error:closed(), State);
stop_worker(GraceMs, State) ->
    control(shutdown, #{mode => drain, grace_ms => GraceMs}, State),
    stop_timer(State#state.timer),
    Waiting = maps:filter(fun(_Id, Request) -> not Request#request.sent end, State#state.requests),
    maps:fold(
        fun(Id, Request, Stopping) -> fail(Id, Request, dspy_bridge_error:closed(), Stopping) end,
        State#state{phase = leaving, timer = after_ms(GraceMs + ?LATE_MS, ended)},
        Waiting
    ).

%% ---- time ------------------------------------------------------------------------------------------

timeout(start, Timer, #state{timer = Timer} = State) ->
    start(State);
timeout(not_ready, Timer, #state{timer = Timer} = State) ->
    down(dspy_bridge_error:start_failed("The worker did not say in time that it is ready.", []), State);
timeout(ended, Timer, #state{timer = Timer} = State) ->
    down(ended_error(State), State);
timeout({late, Id}, Timer, #state{requests = Requests} = State) ->
    case Requests of
        #{Id := #request{timer = Timer, sent = true} = Request} ->
            control(cancel, #{target => Id}, State),
            fail(Id, Request, dspy_bridge_error:late(), State);
        #{Id := #request{timer = Timer} = Request} ->
            fail(Id, Request, not_ready(State), State);
        #{} ->
            State
    end;
timeout(_Event, _Timer, State) ->
    State.

not_ready(#state{last_error = #{message := Message}}) ->
    dspy_bridge_error:new(<<"start_failed">>, "No worker was ready in time. ~ts", [Message], true);
not_ready(_State) ->
    dspy_bridge_error:new(<<"start_failed">>, "No worker was ready in time.", [], true).

after_ms(Ms, Event) -> erlang:start_timer(Ms, self(), Event).

%% The milliseconds that it had left.
stop_timer(undefined) ->
    infinity;
stop_timer(Timer) ->
    case erlang:cancel_timer(Timer) of
        false -> 0;
        Left -> Left
    end.

now_ms() -> erlang:monotonic_time(millisecond).

%% ---- requests --------------------------------------------------------------------------------------

accept(#{ref := Ref}, #state{stopping = [_ | _]} = State) ->
    give(Ref, [], {error, dspy_bridge_error:closed()}, State);
accept(#{ref := Ref}, #state{ever_ready = false, last_error = #{} = Error} = State) ->
    give(Ref, [], {error, Error}, State);
accept(#{ref := Ref, owner := Owner, timeout := Timeout} = Asked, State) ->
    Monitor = erlang:monitor(process, Owner),
    Request = #request{
        ref = Ref,
        owner = Owner,
        monitor = Monitor,
        group_leader = map_get(group_leader, Asked),
        body = map_get(body, Asked),
        credit = map_get(credit, Asked),
        retries = map_get(retries, Asked),
        tools = map_get(tools, Asked),
        configures = map_get(configures, Asked),
        patience = maps:get(patience, State#state.options, ?PATIENCE_MS),
        deadline = if is_integer(Timeout) -> now_ms() + Timeout; true -> undefined end
    },
    #state{next_id = Id, ids = Ids} = State,
    Known = State#state{next_id = Id + 1, ids = Ids#{Ref => Id, Monitor => Id}},
    case Known of
        #state{phase = ready} -> send(Id, Request, Known);
        #state{} -> wait(Id, Request, Known)
    end.

%% Keeps a request until there is a worker.
wait(Id, #request{deadline = Deadline, patience = Patience} = Request, #state{requests = Requests} = State) ->
    stop_timer(Request#request.timer),
    Timer = after_ms(min(Patience, left(Deadline, infinity)), {late, Id}),
    Waiting = Request#request{sent = false, seq = 0, timer = Timer},
    State#state{requests = Requests#{Id => Waiting}}.

send(_Id, #request{sent = true}, State) ->
    State;
send(Id, #request{deadline = Deadline} = Request, #state{requests = Requests} = State) ->
    Patience = min(Request#request.patience, stop_timer(Request#request.timer)),
    {Limit, Timer} =
        case left(Deadline, none) of
            none -> {[], undefined};
            Ms -> {[<<",\"timeout_ms\":">>, integer_to_binary(Ms)], after_ms(Ms + ?LATE_MS, {late, Id})}
        end,
    Credit = [<<",\"credit\":">>, integer_to_binary(Request#request.credit)],
    Line = [<<"{\"id\":">>, integer_to_binary(Id), $,, Request#request.body, Limit, Credit, $}],
    Sent = Request#request{sent = true, timer = Timer, patience = Patience},
    case iolist_size(Line) > State#state.limit of
        true ->
            fail(Id, Sent, dspy_bridge_error:too_long(State#state.limit), State);
        false ->
            write(Line, State),
            State#state{requests = Requests#{Id => Sent}}
    end.

left(undefined, Without) -> Without;
left(Deadline, _Without) -> max(1, Deadline - now_ms()).

with_request(Ref, Fun, #state{ids = Ids, requests = Requests} = State) ->
    case Ids of
        #{Ref := Id} -> Fun(Id, map_get(Id, Requests));
        #{} -> State
    end.

grant(Id, #request{credit = Credit, taken = Before} = Request, Count, #state{requests = Requests} = State) ->
    Taken = Before + Count,
    case Taken >= max(1, Credit div 2) of
        true ->
            control(credit, #{target => Id, n => Taken}, State),
            State#state{requests = Requests#{Id := Request#request{taken = 0}}};
        false ->
            State#state{requests = Requests#{Id := Request#request{taken = Taken}}}
    end.

%% Nobody waits for the request any more.
abandon(Id, #request{sent = Sent} = Request, State) ->
    Sent andalso control(cancel, #{target => Id}, State),
    drop(Id, Request, State).

fail(Id, #request{ref = Ref, lines = Lines} = Request, Error, State) ->
    give(Ref, Lines, {error, Error}, drop(Id, Request, State)).

fail_all(Error, State) ->
    maps:fold(fun(Id, Request, Failing) -> fail(Id, Request, Error, Failing) end, State, State#state.requests).

%% Forgets a request, with all that belongs to it.
drop(Id, #request{ref = Ref, monitor = Monitor, timer = Timer}, State) ->
    #state{requests = Requests, ids = Ids, tools = Tools} = State,
    stop_timer(Timer),
    is_reference(Monitor) andalso erlang:demonitor(Monitor, [flush]),
    {Running, Others} = lists:partition(fun({_Pid, {Target, _}}) -> Target =:= Id end, maps:to_list(Tools)),
    [exit(Pid, kill) || {Pid, _} <- Running],
    State#state{
        requests = maps:remove(Id, Requests),
        ids = maps:without([Ref, Monitor], Ids),
        tools = maps:from_list(Others)
    }.

%% Lines are kept backwards.
give(undefined, _Lines, _Last, State) ->
    State;
give(Ref, Lines, Last, State) ->
    #state{port = Port} = State,
    Part = #{server => self(), port => Port, ref => Ref, lines => lists:reverse(Lines), last => Last},
    Ref ! {dspy_bridge, Ref, Part},
    State.

%% ---- writing ---------------------------------------------------------------------------------------

write(Data, #state{writer = Writer, options = #{framing := packet4}}) ->
    Writer ! {write, Data},
    ok;
write(Data, #state{writer = Writer}) ->
    Writer ! {write, [Data, $\n]},
    ok.

control(Command, Args, State) ->
    {ok, Line} = dspy_bridge_json:encode(#{command => Command, args => Args}),
    write(Line, State).

%% ---- reading ---------------------------------------------------------------------------------------

%% The lines that are in the mailbox already go to their owners in one message each.
more_data(0, State) ->
    State;
more_data(Count, #state{port = Port} = State) ->
    receive
        {Port, {data, Data}} -> more_data(Count - 1, data(Data, State))
    after 0 -> State
    end.

data({eol, Rest}, #state{begun = []} = State) ->
    line(Rest, State);
data({eol, Rest}, #state{begun = Begun} = State) ->
    line(iolist_to_binary(lists:reverse(Begun, [Rest])), State#state{begun = []});
data({noeol, Part}, #state{begun = Begun} = State) ->
    State#state{begun = [Part | Begun]};
data(Packet, State) ->
    line(Packet, State).

limit(#{<<"limits">> := #{<<"max_line_bytes">> := Bytes}}) when is_integer(Bytes) -> Bytes;
limit(_Ready) -> ?LIMIT.

line(Line, #state{phase = starting} = State) ->
    case dspy_bridge_json:decode(Line) of
        {ok, #{<<"type">> := <<"ready">>} = Ready} ->
            configuring(State#state{ever_ready = true, ready_at = now_ms(), limit = limit(Ready)});
        _ ->
            down(dspy_bridge_error:not_ready(Line), State)
    end;
line(<<>>, State) ->
    State;
line(Line, #state{requests = Requests} = State) ->
    case dspy_bridge_line:head(Line) of
        {Id, Seq, Type} ->
            case Requests of
                #{Id := Request} ->
                    Last = dspy_bridge_line:is_last(Line, State#state.done),
                    chunk(Id, Request, Seq, Last, Type, Line, State);
                #{} -> State
            end;
        unlike ->
            strange(Line, State)
    end.

%% A line that the worker might write if it were another one: with spaces, or with its keys in another order.
strange(Line, #state{requests = Requests} = State) ->
    case dspy_bridge_json:decode(Line) of
        {ok, #{<<"id">> := Id} = Chunk} when is_map_key(Id, Requests) ->
            Last = maps:get(<<"done">>, Chunk, false) =:= true,
            Type =
                case Chunk of
                    #{<<"type">> := <<"tool_call">>} -> tool_call;
                    #{<<"type">> := <<"error">>} -> error;
                    #{} -> other
                end,
            chunk(Id, map_get(Id, Requests), maps:get(<<"seq">>, Chunk, none), Last, Type, Line, State);
        {ok, #{<<"id">> := null, <<"type">> := <<"bye">>}} ->
            leaving(State);
        {ok, #{<<"id">> := null, <<"type">> := <<"error">>} = Chunk} ->
            logger:warning("dspy_bridge: the worker says: ~ts", [maps:get(<<"error">>, Chunk, <<>>)]),
            State;
        {ok, #{}} ->
            State;
        _ ->
            down(dspy_bridge_error:torn(Line), State)
    end.

chunk(Id, #request{seq = Expected}, Seq, _Last, _Type, _Line, State) when Seq =/= Expected ->
    down(dspy_bridge_error:missing(Expected, Id), State);
chunk(Id, #request{ref = Ref} = Request, 0, true, error, Line, #state{stopping = []} = State) ->
    %% Where the worker takes nothing new, the request is for the next one.
    case dspy_bridge_json:decode(Line) of
        {ok, #{<<"code">> := <<"shutting_down">>}} when Ref =:= undefined -> drop(Id, Request, leaving(State));
        {ok, #{<<"code">> := <<"shutting_down">>}} -> wait(Id, Request, leaving(State));
        _ -> last(Id, Request, Line, State)
    end;
chunk(Id, Request, _Seq, true, _Type, Line, State) ->
    last(Id, Request, Line, State);
chunk(Id, Request, Seq, false, Type, Line, #state{requests = Requests, touched = Touched} = State) ->
    #request{lines = Lines, body = Body, configures = Configures} = Request,
    Kept = State#state{
        requests = Requests#{
            Id := Request#request{
                seq = Seq + 1,
                lines = [Line | Lines],
                body = if Configures =:= false -> undefined; true -> Body end
            }
        },
        touched = if Lines =:= [] -> [Id | Touched]; true -> Touched end
    },
    case Type of
        tool_call -> tool_call(Id, Request, dspy_bridge_json:decode(Line), Kept);
        _ -> Kept
    end.

leaving(#state{phase = ready} = State) -> State#state{phase = leaving};
leaving(#state{phase = configuring} = State) -> State#state{unwilling = true};
leaving(State) -> State.

last(Id, #request{ref = Ref, lines = Lines} = Request, Line, State) ->
    Remembered = remember(Request, Line, State),
    Served = Ref =/= undefined orelse State#state.served,
    Dropped = drop(Id, Request, Remembered#state{served = Served}),
    configured(give(Ref, [Line | Lines], done, Dropped)).

hand_out(#state{touched = Touched} = State) ->
    lists:foldl(fun hand_out/2, State#state{touched = []}, Touched).

hand_out(Id, #state{requests = Requests} = State) ->
    case Requests of
        #{Id := #request{ref = Ref, lines = [_ | _] = Lines} = Request} ->
            give(Ref, Lines, more, State#state{requests = Requests#{Id := Request#request{lines = []}}});
        #{} ->
            State
    end.

%% ---- configurations --------------------------------------------------------------------------------

remember(#request{configures = {true, Name}, body = Body}, Line, #state{configured = Configured} = State) ->
    case dspy_bridge_json:decode(Line) of
        {ok, #{<<"type">> := Type}} when Type =/= <<"error">>, Type =/= <<"cancelled">> ->
            State#state{configured = lists:keydelete(Name, 1, Configured) ++ [{Name, Body}]};
        _ ->
            State
    end;
remember(_Request, _Line, State) ->
    State.

%% A new worker is told the configurations of the one before it, and is ready when it has answered. If it takes
%% no more than that, it has not started.
configuring(#state{configured = Configured} = State) ->
    Send = fun({_Name, Body}, #state{next_id = Id} = Sending) ->
        Request = #request{body = Body, credit = ?CREDIT, retries = 0, patience = 0, tools = #{}, configures = false},
        send(Id, Request, Sending#state{next_id = Id + 1})
    end,
    configured(lists:foldl(Send, State#state{phase = configuring}, Configured)).

configured(#state{phase = configuring, unwilling = false, requests = Requests} = State) ->
    case lists:any(fun(Request) -> Request#request.sent end, maps:values(Requests)) of
        true -> State;
        false -> up(State)
    end;
configured(State) ->
    State.

%% ---- tools -----------------------------------------------------------------------------------------

tool_call(Id, Request, {ok, #{<<"host">> := true, <<"call_id">> := CallId} = Chunk}, State) ->
    Name = maps:get(<<"name">>, Chunk, <<>>),
    case Request of
        #request{tools = #{Name := Fun}, owner = Owner, group_leader = Leader} ->
            Args = [self(), Leader, Fun, maps:get(<<"args">>, Chunk, #{})],
            Pid = spawn_opt(node(Owner), ?MODULE, run_tool, Args, [link]),
            State#state{tools = (State#state.tools)#{Pid => {Id, CallId}}};
        #request{} ->
            tool_result(Id, CallId, {error, ["There is no tool called ", text(Name), "."]}, State)
    end;
tool_call(_Id, _Request, {ok, #{}}, State) ->
    State;
tool_call(_Id, _Request, _NoChunk, State) ->
    %% The owner finds that it can not be decoded.
    State.

%% @private
%% Runs where the owner is, and prints where it does.
run_tool(Server, Leader, Fun, Args) ->
    group_leader(Leader, self()),
    Answer =
        try Fun(Args) of
            {error, Reason} ->
                {error, text(Reason)};
            Value ->
                case dspy_bridge_json:encode(Value) of
                    {ok, Json} -> {value, Json};
                    error -> {error, "The tool's value has no form in JSON."}
                end
        catch
            _Class:Reason -> {error, text(Reason)}
        end,
    Server ! {tool_answer, self(), Answer}.

tool_answered(Pid, Answer, #state{tools = Tools} = State) ->
    {{Id, CallId}, Others} = maps:take(Pid, Tools),
    tool_result(Id, CallId, Answer, State#state{tools = Others}).

tool_result(Id, CallId, Answer, State) ->
    {Key, Json} =
        case Answer of
            {value, Encoded} ->
                {<<"value">>, Encoded};
            {error, Text} ->
                {ok, Encoded} = dspy_bridge_json:encode(unicode:characters_to_binary(Text)),
                {<<"error">>, Encoded}
        end,
    {ok, Call} = dspy_bridge_json:encode(CallId),
    Target = integer_to_binary(Id),
    Begin = [<<"{\"command\":\"tool_result\",\"args\":{\"target\":">>, Target, <<",\"call_id\":">>, Call],
    Line = [Begin, <<",\"">>, Key, <<"\":">>, Json, <<"}}">>],
    case iolist_size(Line) > State#state.limit of
        true ->
            tool_result(Id, CallId, {error, "The tool's answer is longer than the worker reads."}, State);
        false ->
            write(Line, State),
            State
    end.

%% A reason as words of one line.
text(Reason) when is_binary(Reason) ->
    case unicode:characters_to_binary(Reason) of
        Text when is_binary(Text) -> Text;
        _ -> io_lib:format("~0p", [Reason])
    end;
text([_ | _] = Reason) ->
    case io_lib:printable_unicode_list(Reason) of
        true -> Reason;
        false -> io_lib:format("~0tP", [Reason, 20])
    end;
text(Reason) ->
    io_lib:format("~0tP", [Reason, 20]).
