%% @doc A client of dspy-bridge: DSPy from Erlang.
%%
%% A server is one supervised worker process behind a port. It starts the worker again when that ends, sends
%% any number of requests at once, and hands each chunk to whoever asked:
%% ```
%% {ok, Bridge} = dspy_bridge:start_link(#{argv => ["dspy-bridge", "serve", "--model", "openai/gpt-4o-mini"]}),
%% Args = #{signature => <<"question -> answer">>, question => <<"Why is the sky blue?">>},
%% {ok, #{<<"output">> := Output}} = dspy_bridge:call(Bridge, <<"stream_predict">>, Args, #{timeout => 60000}).
%% '''
%% A server may be named by pid, by name or by {Name, Node}: results are decoded, and tools run, on the
%% caller's node. A child specification is `#{id => bridge, start => {dspy_bridge, start_link, [Options]}}'.
%%
%% Chunks are maps with binary keys; null is `null'. The worker's documents say which there are.
%%
%% How data flows: The server finds a line's request by the line's first bytes, without decoding it, and
%% sends the lines of one read to their owner in one message, which decodes them. A request is sent with a
%% window (`credit'); when its owner has taken half of it, so many chunks more are granted to the worker. So
%% an owner that is slow has at most a window of chunks in its mailbox, and other requests go on.
-module(dspy_bridge).

-export([start_link/1, start_link/2, await_ready/2, stop/1, stop/2]).
-export([call/3, call/4, fold/6, stream/4, take/1, cancel/2, configure/2, configure/3, os_pid/1]).
-export_type([server/0, start_options/0, options/0, tool/0, chunk/0, error/0, part/0]).

-type server() :: pid() | atom() | {Name :: atom(), node()}.

-type start_options() :: #{
    %% The whole command line; nothing goes through a shell. Default: dspy-bridge serve.
    argv => [string() | binary(), ...],
    %% packet4 adds `--framing packet4' to the command line unless it says `--framing' itself.
    framing => lines | packet4,
    %% Changes to the environment, and the directory to start in.
    env => [{string() | binary(), string() | binary() | false}],
    cd => file:name_all(),
    %% Milliseconds until the worker must have said that it is ready (30,000), and for which a request waits
    %% for a worker (30,000).
    ready_timeout => pos_integer(),
    patience => pos_integer()
}.

-type options() :: #{
    %% Milliseconds for the whole request. The worker ends it then; if that does not, the client does 2 s later.
    timeout => timeout(),
    %% How many chunks may be under way (64).
    credit => pos_integer(),
    %% How often to send the request again if the worker died before any chunk of it (0).
    retries => non_neg_integer(),
    %% Functions that the worker may call, by name.
    tools => #{atom() | binary() => tool()},
    traceparent => binary()
}.

-type tool() :: #{
    desc => binary(),
    args => #{atom() | binary() => map()},
    required => [atom() | binary()],
    'fun' := fun((map()) -> term())
}.
%% What the model is told of a function (`args': JSON Schemas by name), and the function itself. It runs in a
%% process of its own, gets the args as a map with binary keys and returns what is to be encoded as JSON. An
%% exception or `{error, Reason}' is told to the model in words.

-type chunk() :: #{binary() => term()}.
%% As the worker wrote it, decoded.

-type error() :: #{
    code := binary(),
    message := binary(),
    retryable := boolean(),
    retry_after_ms => non_neg_integer(),
    details => map()
}.
%% `code' is the worker's, or one of the client's own: `worker_died', `start_failed', `protocol_error',
%% `deadline_exceeded', `closed', `invalid_args'. `details' of the first: `exit_code' or `signal', where known.

-opaque part() :: #{
    server := pid(),
    port := port() | undefined,
    ref := reference(),
    lines := [binary()],
    last := more | done | {error, error()}
}.

-define(GRACE_MS, 30000).
-define(CREDIT, 64).
%% The most that the protocol counts to, and milliseconds.
-define(MOST, 2147483648).

%% ---- start and stop --------------------------------------------------------------------------------

%% @doc Starts a server, linked to the caller. The worker is started after this returns: requests wait for it.
%% Until a worker has been ready for once, a start that fails is told to all who wait or ask (`start_failed');
%% later, requests have patience. In any case it is tried again, after 0, 100, 200, ... 10,000 ms. A wrong option
%% is an error `{bad_option, Name, Value}', as it is in requests.
-spec start_link(start_options()) -> gen_server:start_ret().
start_link(Options) when is_map(Options) ->
    gen_server:start_link(dspy_bridge_server, checked(Options), []).

%% @doc As start_link/1, registered under a name, such as `{local, bridge}'.
-spec start_link(gen_server:server_name(), start_options()) -> gen_server:start_ret().
start_link(Name, Options) when is_map(Options) ->
    gen_server:start_link(Name, dspy_bridge_server, checked(Options), []).

%% @doc Waits until the worker is ready. `start_failed' is told as soon as a start has failed, though the
%% server goes on trying.
-spec await_ready(server(), timeout()) -> ok | {error, error()}.
await_ready(Server, Timeout) ->
    try
        gen_server:call(Server, await_ready, Timeout)
    catch
        exit:{timeout, _} ->
            Format = "The worker is not ready after ~b ms.",
            {error, dspy_bridge_error:new(<<"start_failed">>, Format, [Timeout], true)};
        exit:{Reason, _} ->
            {error, dspy_bridge_error:closed(Reason)}
    end.

%% @doc As stop/2 with 30 seconds.
-spec stop(server()) -> ok.
stop(Server) ->
    stop(Server, ?GRACE_MS).

%% @doc Ends the worker and then the server. What is running may take so many milliseconds to end; nothing new
%% is taken. Returns when the worker's process is gone.
-spec stop(server(), GraceMs :: non_neg_integer()) -> ok.
stop(Server, GraceMs) ->
    try
        gen_server:call(Server, {stop, GraceMs}, infinity)
    catch
        exit:{_Reason, _} -> ok
    end.

%% @doc The worker's process id, if one is up.
-spec os_pid(server()) -> pos_integer() | undefined.
os_pid(Server) ->
    gen_server:call(Server, os_pid, infinity).

%% ---- requests --------------------------------------------------------------------------------------

%% @doc As call/4 without options.
-spec call(server(), atom() | binary(), map()) -> {ok, chunk()} | {error, error()}.
call(Server, Command, Args) ->
    call(Server, Command, Args, #{}).

%% @doc Waits for a request's end and gives its last chunk. The chunks before it are dropped.
-spec call(server(), atom() | binary(), map(), options()) -> {ok, chunk()} | {error, error()}.
call(Server, Command, Args, Options) ->
    case fold(Server, Command, Args, fun(Chunk, _) -> Chunk end, none, Options) of
        {ok, Chunk} -> {ok, Chunk};
        {error, Error, _} -> {error, Error}
    end.

%% @doc Calls Fun(Chunk, Acc) with each chunk, the last one included, as they come. If it returns
%% `{stop, Acc}' the request is cancelled; this does not wait for the worker. It is also cancelled if Fun
%% raises, or if the calling process dies. After an error, Acc is what had been made of the chunks before it.
-spec fold(server(), atom() | binary(), map(), Fun, Acc, options()) -> {ok, Acc} | {error, error(), Acc} when
    Fun :: fun((chunk(), Acc) -> Acc | {stop, Acc}).
fold(Server, Command, Args, Fun, Acc, Options) ->
    case stream(Server, Command, Args, Options) of
        {ok, Ref} ->
            Slice = half(maps:get(credit, Options, ?CREDIT)),
            try
                fold_parts(Server, Ref, Fun, Acc, Slice)
            catch
                Class:Reason:Stack ->
                    cancel(Server, Ref),
                    erlang:raise(Class, Reason, Stack)
            end;
        {error, Error} ->
            {error, Error, Acc}
    end.

fold_parts(Server, Ref, Fun, Acc, Slice) ->
    receive
        {?MODULE, Ref, Part} ->
            {What, Chunks} = open(Part),
            case fold_chunks(Chunks, Fun, Acc, Part, Slice, 0) of
                {stop, Stopped} ->
                    What =:= more andalso cancel(Server, Ref),
                    {ok, Stopped};
                {cont, Folded} when What =:= more -> fold_parts(Server, Ref, Fun, Folded, Slice);
                {cont, Folded} when What =:= done -> {ok, Folded};
                {cont, Folded} ->
                    {error, Error} = What,
                    {error, Error, Folded}
            end;
        {'DOWN', Ref, process, _, Reason} ->
            {error, dspy_bridge_error:closed(Reason), Acc}
    end.

%% Half a window is granted as soon as it has been dealt with, though a part may hold more.
fold_chunks(Chunks, Fun, Acc, Part, Slice, Slice) ->
    taken(Part, Slice),
    fold_chunks(Chunks, Fun, Acc, Part, Slice, 0);
fold_chunks([Chunk | Chunks], Fun, Acc, Part, Slice, Count) ->
    case Fun(Chunk, Acc) of
        {stop, Stopped} -> {stop, Stopped};
        Folded -> fold_chunks(Chunks, Fun, Folded, Part, Slice, Count + 1)
    end;
fold_chunks([], _Fun, Acc, Part, _Slice, Count) ->
    taken(Part, Count),
    {cont, Acc}.

%% @doc Begins a request whose chunks come to the calling process as messages `{dspy_bridge, Ref, Part}':
%% give each Part to take/1. Ref is a monitor of the server, too: ``{'DOWN', Ref, process, _, Reason}'' comes
%% if that ends without having been stopped, and then no more. The request is cancelled when the process ends.
-spec stream(server(), atom() | binary(), map(), options()) -> {ok, reference()} | {error, error()}.
stream(Server, Command, Args, Options) ->
    checked(Options),
    Tools = [{to_binary(Name), Tool} || {Name, Tool} <- maps:to_list(maps:get(tools, Options, #{}))],
    case body(to_binary(Command), declare(Tools, Args), Options) of
        {ok, Body} ->
            request(Server, #{
                owner => self(),
                group_leader => group_leader(),
                body => Body,
                timeout => maps:get(timeout, Options, infinity),
                credit => maps:get(credit, Options, ?CREDIT),
                retries => maps:get(retries, Options, 0),
                tools => maps:from_list([{Name, Fun} || {Name, #{'fun' := Fun}} <- Tools]),
                configures => configures(Command, Args)
            });
        error ->
            {error, dspy_bridge_error:new(<<"invalid_args">>, "The args have no form in JSON.", [], false)}
    end.

%% As an alias, the monitor's reference takes no message any more once the monitor has been ended.
request(Server, Request) ->
    try erlang:monitor(process, Server, [{alias, demonitor}]) of
        Ref ->
            gen_server:cast(Server, {request, Request#{ref => Ref}}),
            {ok, Ref}
    catch
        error:badarg -> {error, dspy_bridge_error:closed(nodedown)}
    end.

%% @doc What a part holds: chunks in their order, and whether the request goes on, has ended well (the last
%% chunk is its result) or has failed. Taking a part is what lets the worker send more.
-spec take(part()) -> {more, [chunk()]} | {done, [chunk(), ...]} | {error, error(), [chunk()]}.
take(Part) ->
    case open(Part) of
        {more, Chunks} ->
            taken(Part, length(Chunks)),
            {more, Chunks};
        {done, Chunks} ->
            {done, Chunks};
        {{error, Error}, Chunks} ->
            {error, Error, Chunks}
    end.

%% @doc Cancels a request of the calling process: no message of it comes any more. Does not wait for the worker.
-spec cancel(server(), reference()) -> ok.
cancel(Server, Ref) ->
    gen_server:cast(Server, {cancel, Ref}),
    forget(Ref).

%% @doc As configure/3 without options.
-spec configure(server(), map()) -> {ok, chunk()} | {error, error()}.
configure(Server, Args) ->
    configure(Server, Args, #{}).

%% @doc Configures a language model. What has succeeded is repeated to each worker that is started later,
%% before it gets any other request; of two with the same `name' the later one.
-spec configure(server(), map(), options()) -> {ok, chunk()} | {error, error()}.
configure(Server, Args, Options) ->
    call(Server, <<"configure">>, Args, Options).

open(#{server := Server, port := Port, ref := Ref, lines := Lines, last := Last}) ->
    case dspy_bridge_json:decode_lines(Lines) of
        {ok, Chunks} ->
            ended(Last, Chunks, Ref);
        {error, Chunks, Line} ->
            gen_server:cast(Server, {torn, Port, Ref, Line}),
            forget(Ref),
            {{error, dspy_bridge_error:torn(Line)}, Chunks}
    end.

ended(more, Chunks, _Ref) ->
    {more, Chunks};
ended(done, Chunks, Ref) ->
    erlang:demonitor(Ref, [flush]),
    case lists:last(Chunks) of
        #{<<"type">> := Type} = Chunk when Type =:= <<"error">>; Type =:= <<"cancelled">> ->
            {{error, dspy_bridge_error:of_chunk(Chunk)}, lists:droplast(Chunks)};
        _ ->
            {done, Chunks}
    end;
ended({error, _} = Last, Chunks, Ref) ->
    erlang:demonitor(Ref, [flush]),
    {Last, Chunks}.

taken(#{last := more, server := Server, ref := Ref}, Count) when Count > 0 ->
    gen_server:cast(Server, {taken, Ref, Count});
taken(_Part, _Count) ->
    ok.

%% Drops what has come for a reference. Its alias ends with the monitor, so that nothing comes any more.
forget(Ref) ->
    erlang:demonitor(Ref, [flush]),
    flush(Ref).

flush(Ref) ->
    receive
        {?MODULE, Ref, _} -> flush(Ref)
    after 0 -> ok
    end.

%% Time and credit are added when the request is sent: part of its time may have gone by then.
body(Command, Args, Options) ->
    Trace =
        case Options of
            #{traceparent := Traceparent} -> #{traceparent => Traceparent};
            #{} -> #{}
        end,
    case dspy_bridge_json:encode(Trace#{command => Command, args => Args}) of
        {ok, <<"{", Middle/binary>>} -> {ok, binary:part(Middle, 0, byte_size(Middle) - 1)};
        error -> error
    end.

declare([], Args) ->
    Args;
declare(Tools, Args) ->
    Declared = [(maps:with([desc, args, required], Tool))#{name => Name} || {Name, Tool} <- Tools],
    Others = maps:get(<<"tools">>, Args, maps:get(tools, Args, [])),
    (maps:remove(<<"tools">>, Args))#{tools => Others ++ Declared}.

%% The options, if they are right: else the server would fail for them again and again, or the worker.
checked(Options) ->
    [is_right(Name, Value) orelse error({bad_option, Name, Value}) || {Name, Value} <- maps:to_list(Options)],
    Options.

is_right(argv, [_ | _] = Words) ->
    lists:all(fun is_text/1, Words);
is_right(framing, Framing) ->
    lists:member(Framing, [lines, packet4]);
is_right(env, Env) ->
    lists:all(fun({Name, Value}) -> is_text(Name) andalso (Value =:= false orelse is_text(Value)) end, Env);
is_right(timeout, infinity) ->
    true;
is_right(Name, Value) when Name =:= timeout; Name =:= credit; Name =:= ready_timeout; Name =:= patience ->
    is_integer(Value) andalso Value > 0 andalso Value =< ?MOST;
is_right(retries, Value) ->
    is_integer(Value) andalso Value >= 0;
is_right(tools, Tools) ->
    is_map(Tools);
is_right(Name, _Value) ->
    Name =:= cd orelse Name =:= traceparent.

is_text(Text) ->
    try
        is_binary(unicode:characters_to_binary(Text))
    catch
        error:badarg -> false
    end.

configures(Command, Args) when Command =:= configure; Command =:= <<"configure">> ->
    {true, to_binary(maps:get(<<"name">>, Args, maps:get(name, Args, default)))};
configures(_Command, _Args) ->
    false.

to_binary(Name) when is_atom(Name) -> atom_to_binary(Name);
to_binary(Name) -> Name.

half(Credit) -> max(1, Credit div 2).
