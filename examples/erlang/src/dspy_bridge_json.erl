%% @doc JSON by whatever there is: the `json' module of OTP 27, else jiffy, else jsx.
%%
%% Objects are maps with binary keys, strings are UTF-8 binaries, null is `null'. What is encoded may also
%% have atoms as keys and as strings.
-module(dspy_bridge_json).

-export([encode/1, decode/1, decode_lines/1]).

%% @doc Encodes a term; `error' if it has no form in JSON (a tuple, a pid, bytes that are no UTF-8, ...).
-spec encode(term()) -> {ok, binary()} | error.
encode(Term) ->
    Codec = codec(),
    try
        {ok, encode(Codec, Term)}
    catch
        _:_ -> error
    end.

%% @doc Decodes one text.
-spec decode(iodata()) -> {ok, term()} | error.
decode(Text) ->
    Codec = codec(),
    try
        {ok, decode(Codec, Text)}
    catch
        _:_ -> error
    end.

%% @doc Decodes lines, each of them an object; else the objects before the first line that is none, and it.
-spec decode_lines([binary()]) -> {ok, [map()]} | {error, [map()], binary()}.
decode_lines([_, _ | _] = Lines) ->
    case codec() of
        jiffy -> decode_joined(Lines);
        _ -> decode_each(Lines, [])
    end;
decode_lines(Lines) ->
    decode_each(Lines, []).

%% A call of the NIF costs more than a small object does: as one array, lines take half the time.
decode_joined(Lines) ->
    case decode([$[, lists:join($,, Lines), $]]) of
        {ok, Objects} when length(Objects) =:= length(Lines) ->
            case lists:all(fun is_map/1, Objects) of
                true -> {ok, Objects};
                false -> decode_each(Lines, [])
            end;
        _ ->
            decode_each(Lines, [])
    end.

decode_each([Line | Lines], Objects) ->
    case decode(Line) of
        {ok, Object} when is_map(Object) -> decode_each(Lines, [Object | Objects]);
        _ -> {error, lists:reverse(Objects), Line}
    end;
decode_each([], Objects) ->
    {ok, lists:reverse(Objects)}.

encode(jsx, Term) -> jsx:encode(Term, [{strict, [utf8]}]);
encode(Codec, Term) -> iolist_to_binary(Codec:encode(Term)).

%% Strings are copied: as parts of a line they would keep all of it in memory for as long as one is in use.
decode(jiffy, Text) ->
    jiffy:decode(Text, [return_maps, copy_strings]);
decode(jsx, Text) ->
    jsx:decode(iolist_to_binary(Text), [return_maps, strict]);
decode(json, Text) ->
    {Value, ok, <<>>} = json:decode(iolist_to_binary(Text), ok, #{string => fun binary:copy/1}),
    Value.

-if(?OTP_RELEASE >= 27).
codec() -> json.
-else.
codec() ->
    case persistent_term:get(?MODULE, undefined) of
        undefined ->
            case [Name || Name <- [jiffy, jsx], code:ensure_loaded(Name) =:= {module, Name}] of
                [Codec | _] -> persistent_term:put(?MODULE, Codec), Codec;
                [] -> error(no_json_codec)
            end;
        Codec ->
            Codec
    end.
-endif.
