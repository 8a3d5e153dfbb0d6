%% @private
%% The worker as a process of the operating system: starting it, writing to it, ending it.
-module(dspy_bridge_port).

-export([open/1, os_pid/1, close/1, kill/1, is_running/1, start_writer/1]).
-export([write_to/1]).

%% Longer lines come in parts of so many bytes.
-define(PART_BYTES, 65536).

%% Starts a worker, its port linked to the caller: data, `eof' and `exit_status' come as messages.
-spec open(dspy_bridge:start_options()) -> {ok, port()} | {error, dspy_bridge:error()}.
open(Options) ->
    [Program | Args] = command_line(Options),
    case os:find_executable(Program) of
        false ->
            {error, dspy_bridge_error:start_failed("There is no program ~ts.", [Program])};
        Path ->
            try
                {ok, open_port({spawn_executable, Path}, port_options(Args, Options))}
            catch
                error:Reason ->
                    Values = [Program, Reason],
                    {error, dspy_bridge_error:start_failed("~ts can not be started: ~0tp", Values)}
            end
    end.

command_line(Options) ->
    Words = [to_list(Word) || Word <- maps:get(argv, Options, ["dspy-bridge", "serve"])],
    case maps:get(framing, Options, lines) of
        packet4 -> Words ++ [Word || not lists:member("--framing", Words), Word <- ["--framing", "packet4"]];
        lines -> Words
    end.

port_options(Args, Options) ->
    Framing =
        case maps:get(framing, Options, lines) of
            packet4 -> {packet, 4};
            lines -> {line, ?PART_BYTES}
        end,
    Env = [{to_list(Name), to_list(Value)} || {Name, Value} <- maps:get(env, Options, [])],
    [binary, exit_status, eof, Framing, {args, Args}, {env, Env}] ++ maps:to_list(maps:with([cd], Options)).

to_list(false) -> false;
to_list(Text) -> unicode:characters_to_list(Text).

-spec os_pid(port()) -> pos_integer() | undefined.
os_pid(Port) ->
    case erlang:port_info(Port, os_pid) of
        {os_pid, OsPid} -> OsPid;
        undefined -> undefined
    end.

%% Closes the worker's stdin and stdout.
-spec close(port()) -> ok.
close(Port) ->
    unlink(Port),
    try
        true = port_close(Port),
        ok
    catch
        error:badarg -> ok
    end.

-spec kill(pos_integer()) -> ok.
kill(OsPid) ->
    _ = os:cmd("kill -KILL " ++ integer_to_list(OsPid)),
    ok.

%% Where /proc does not tell, a process is taken to run.
-spec is_running(pos_integer()) -> boolean().
is_running(OsPid) ->
    filelib:is_dir("/proc/" ++ integer_to_list(OsPid)) orelse not filelib:is_dir("/proc/self").

%% A process that writes to the port what it is sent as `{write, Data}'. Who writes to a worker that does not
%% read is suspended, and the server has others to look after.
-spec start_writer(port()) -> pid().
start_writer(Port) ->
    spawn_link(?MODULE, write_to, [Port]).

%% @private
write_to(Port) ->
    receive
        {write, Data} ->
            try port_command(Port, Data) of
                true -> write_to(Port)
            catch
                error:badarg -> ok
            end
    end.
