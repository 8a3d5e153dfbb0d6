-module(dspy_bridge_json_tests).
-include_lib("stdlib/include/assert.hrl").
%% What eunit.hrl would do: Debian has that in a package of its own.
-compile({parse_transform, eunit_autoexport}).

there_and_back_test_() ->
    Values = [
        null,
        true,
        0,
        -1,
        1 bsl 63,
        123456789012345678901234567890,
        0.5,
        1.0e300,
        <<>>,
        <<"a\"\\/\b\n\t">>,
        <<"é€😀"/utf8>>,
        <<16#2028/utf8, 16#2029/utf8, 16#85/utf8>>,
        [],
        #{},
        [[], #{}, [null]],
        #{<<"é"/utf8>> => #{<<>> => [1, <<"x">>]}}
    ],
    [fun() -> ?assertEqual({ok, Value}, back(Value)) end || Value <- Values].

back(Value) ->
    {ok, Json} = dspy_bridge_json:encode(Value),
    true = is_binary(Json),
    dspy_bridge_json:decode(Json).

atoms_are_texts_test() ->
    ?assertEqual({ok, #{<<"a">> => <<"b">>, <<"c">> => [true, null]}}, back(#{a => b, c => [true, null]})).

what_is_no_json_test_() ->
    Terms = [{1, 2}, self(), fun() -> ok end, <<255>>, #{<<"a">> => <<"x", 200>>}, <<1:3>>, #{{1} => 2}],
    [fun() -> ?assertEqual(error, dspy_bridge_json:encode(Term)) end || Term <- Terms].

what_can_not_be_read_test_() ->
    Texts = [<<>>, <<"{">>, <<"{\"a\":1}x">>, <<"nul">>, <<"\"", 255, "\"">>, <<"\"\\ud800\"">>, <<"[1,]">>],
    [fun() -> ?assertEqual(error, dspy_bridge_json:decode(Text)) end || Text <- Texts].

lines_test() ->
    Lines = [<<"{\"n\":1}">>, <<" {\"n\" : 2} \r">>, <<"{}">>],
    Objects = [#{<<"n">> => 1}, #{<<"n">> => 2}, #{}],
    ?assertEqual({ok, Objects}, dspy_bridge_json:decode_lines(Lines)),
    ?assertEqual({ok, []}, dspy_bridge_json:decode_lines([])).

%% Wrong lines must not become right by standing next to each other.
torn_lines_test_() ->
    Good = <<"{\"n\":1}">>,
    Wrong = [
        {[<<"{\"n\":[1">>, <<"2]}">>], [], <<"{\"n\":[1">>},
        {[Good, <<"{}],[{}">>], [#{<<"n">> => 1}], <<"{}],[{}">>},
        {[Good, <<"{},{}">>, Good], [#{<<"n">> => 1}], <<"{},{}">>},
        {[Good, <<"[]">>], [#{<<"n">> => 1}], <<"[]">>},
        {[<<"1">>], [], <<"1">>},
        {[Good, Good, <<>>], [#{<<"n">> => 1}, #{<<"n">> => 1}], <<>>}
    ],
    [
        fun() -> ?assertEqual({error, Objects, Line}, dspy_bridge_json:decode_lines(Lines)) end
     || {Lines, Objects, Line} <- Wrong
    ].

%% A short string that is kept keeps no long line in memory.
strings_are_their_own_test() ->
    {ok, Line} = dspy_bridge_json:encode(#{short => binary:copy(<<"x">>, 100), long => binary:copy(<<"y">>, 100000)}),
    {ok, [#{<<"short">> := Short}, _]} = dspy_bridge_json:decode_lines([Line, Line]),
    ?assertEqual(100, binary:referenced_byte_size(Short)).
