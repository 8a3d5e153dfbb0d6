%% @private
%% The errors that callers get: the worker's own, and those that the client finds itself.
-module(dspy_bridge_error).

-export([of_chunk/1, new/4]).
-export([torn/1, missing/2, not_ready/1, start_failed/2, died/1, status/1, late/0, too_long/1]).
-export([closed/0, closed/1]).

-type error() :: dspy_bridge:error().

%% Of a request's last chunk, when that is `error' or `cancelled'.
-spec of_chunk(dspy_bridge:chunk()) -> error().
of_chunk(#{<<"type">> := <<"cancelled">>} = Chunk) ->
    Reason = maps:get(<<"reason">>, Chunk, null),
    Error = new(<<"cancelled">>, "The request was cancelled.", [], Reason =:= <<"shutdown">>),
    Error#{details => #{<<"reason">> => Reason}};
of_chunk(Chunk) ->
    Optional = [
        {Key, Value}
     || {Key, Name} <- [{retry_after_ms, <<"retry_after_ms">>}, {details, <<"details">>}],
        (Value = maps:get(Name, Chunk, null)) =/= null
    ],
    maps:merge(maps:from_list(Optional), #{
        code => maps:get(<<"code">>, Chunk, <<"internal">>),
        message => maps:get(<<"error">>, Chunk, <<>>),
        retryable => maps:get(<<"retryable">>, Chunk, false) =:= true
    }).

-spec new(binary(), io:format(), [term()], boolean()) -> error().
new(Code, Format, Values, Retryable) ->
    Message = unicode:characters_to_binary(io_lib:format(Format, Values)),
    #{code => Code, message => Message, retryable => Retryable}.

-spec torn(binary()) -> error().
torn(Line) ->
    new(<<"protocol_error">>, "The worker wrote a line that is no chunk: ~ts", [beginning(Line)], false).

-spec missing(non_neg_integer(), pos_integer()) -> error().
missing(Seq, Id) ->
    new(<<"protocol_error">>, "Chunk ~b of request ~b is missing.", [Seq, Id], false).

-spec not_ready(binary()) -> error().
not_ready(Line) ->
    start_failed("The worker did not begin with ready, but with: ~ts", [beginning(Line)]).

-spec too_long(pos_integer()) -> error().
too_long(Limit) ->
    new(<<"line_too_long">>, "The request is longer than the ~b bytes that the worker reads.", [Limit], false).

-spec late() -> error().
late() ->
    new(<<"deadline_exceeded">>, "The worker did not answer in time.", [], true).

-spec closed(term()) -> error().
closed(Reason) ->
    new(<<"closed">>, "The client has ended: ~0tP", [Reason, 8], false).

-spec closed() -> error().
closed() ->
    new(<<"closed">>, "The client is being stopped.", [], false).

-spec start_failed(io:format(), [term()]) -> error().
start_failed(Format, Values) ->
    new(<<"start_failed">>, Format, Values, false).

-spec died(non_neg_integer() | undefined) -> error().
died(undefined) ->
    new(<<"worker_died">>, "The worker has ended.", [], true);
died(Status) ->
    Error = new(<<"worker_died">>, "The worker has ended (~ts).", [status(Status)], true),
    case Status of
        _ when Status > 128 -> Error#{details => #{<<"signal">> => Status - 128}};
        _ -> Error#{details => #{<<"exit_code">> => Status}}
    end.

-spec status(non_neg_integer() | undefined) -> iolist().
status(undefined) -> "no exit status";
status(Status) when Status > 128 -> io_lib:format("signal ~b", [Status - 128]);
status(Status) -> io_lib:format("exit code ~b", [Status]).

%% The begin of a line for a person to read, whatever bytes it is made of.
beginning(Line) ->
    Begin = binary:part(Line, 0, min(80, byte_size(Line))),
    case unicode:characters_to_list(Begin) of
        Text when is_list(Text) -> [Char || Char <- Text, Char >= $\s];
        _ -> io_lib:format("~0p", [Begin])
    end.
