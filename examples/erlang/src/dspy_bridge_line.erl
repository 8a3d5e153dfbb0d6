%% @private
%% What has to be known of a line before it is decoded. The worker writes `id' first, `seq' second, `type' third
%% and `done' last, without spaces: such lines are told by their ends, others have to be decoded.
-module(dspy_bridge_line).

-export([head/1, is_last/2, done_pattern/0]).

%% The id and the place of a chunk, and whether it is of a type that matters on the way.
-spec head(binary()) -> {Id :: non_neg_integer(), Seq :: non_neg_integer(), tool_call | error | other} | unlike.
head(<<"{\"id\":", Rest/binary>>) -> head_id(Rest, 0);
head(_) -> unlike.

head_id(<<Digit, Rest/binary>>, Id) when Digit >= $0, Digit =< $9 -> head_id(Rest, Id * 10 + Digit - $0);
head_id(<<",\"seq\":", Rest/binary>>, Id) -> head_seq(Rest, Id, 0);
head_id(_, _) -> unlike.

head_seq(<<Digit, Rest/binary>>, Id, Seq) when Digit >= $0, Digit =< $9 ->
    head_seq(Rest, Id, Seq * 10 + Digit - $0);
head_seq(<<",\"type\":\"tool_call\"", _/binary>>, Id, Seq) -> {Id, Seq, tool_call};
head_seq(<<",\"type\":\"error\"", _/binary>>, Id, Seq) -> {Id, Seq, error};
head_seq(<<",\"type\":\"", _/binary>>, Id, Seq) -> {Id, Seq, other};
head_seq(_, _, _) -> unlike.

%% Compiled, because compiling it would take longer than a search does.
-spec done_pattern() -> binary:cp().
done_pattern() ->
    binary:compile_pattern(<<"\"done\"">>).

%% Whether a chunk is its request's last one.
-spec is_last(binary(), binary:cp()) -> boolean().
is_last(Line, Pattern) ->
    Before = byte_size(Line) - 13,
    case Line of
        <<_:Before/binary, ",\"done\":true}">> ->
            true;
        _ ->
            binary:match(Line, Pattern) =/= nomatch andalso
                case dspy_bridge_json:decode(Line) of
                    {ok, #{<<"done">> := true}} -> true;
                    _ -> false
                end
    end.
