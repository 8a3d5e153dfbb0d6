-module(dspy_bridge_line_tests).
-include_lib("stdlib/include/assert.hrl").
%% What eunit.hrl would do: Debian has that in a package of its own.
-compile({parse_transform, eunit_autoexport}).

head_test_() ->
    Lines = [
        {<<"{\"id\":7,\"seq\":0,\"type\":\"chunk\"}">>, {7, 0, other}},
        {<<"{\"id\":123456789012,\"seq\":42,\"type\":\"error\",\"done\":true}">>, {123456789012, 42, error}},
        {<<"{\"id\":7,\"seq\":1,\"type\":\"tool_call\",\"call_id\":\"c1\"}">>, {7, 1, tool_call}},
        {<<"{\"id\":7,\"seq\":1,\"type\":\"tool_calls\"}">>, {7, 1, other}},
        {<<"{\"id\": 7,\"seq\":0,\"type\":\"chunk\"}">>, unlike},
        {<<"{\"id\":7,\"seq\":0,\"n\":1,\"type\":\"chunk\"}">>, unlike},
        {<<"{\"seq\":0,\"id\":7,\"type\":\"chunk\"}">>, unlike},
        {<<"{\"id\":null,\"type\":\"bye\"}">>, unlike},
        {<<"{\"id\":\"7\",\"seq\":0,\"type\":\"chunk\"}">>, unlike},
        {<<"{\"id\":-7,\"seq\":0,\"type\":\"chunk\"}">>, unlike},
        {<<"{\"id\":7">>, unlike},
        {<<"Traceback">>, unlike},
        {<<>>, unlike}
    ],
    [fun() -> ?assertEqual({Line, Head}, {Line, dspy_bridge_line:head(Line)}) end || {Line, Head} <- Lines].

is_last_test_() ->
    Pattern = dspy_bridge_line:done_pattern(),
    Lines = [
        {<<"{\"id\":7,\"seq\":0,\"type\":\"result\",\"done\":true}">>, true},
        {<<"{\"id\":7,\"seq\":0,\"done\":true,\"type\":\"result\"}">>, true},
        {<<"{\"id\":7,\"seq\":0,\"type\":\"result\",\"done\": true }\r">>, true},
        {<<"{\"id\":7,\"seq\":0,\"type\":\"chunk\"}">>, false},
        {<<"{\"id\":7,\"seq\":0,\"type\":\"chunk\",\"done\":false}">>, false},
        {<<"{\"id\":7,\"seq\":0,\"type\":\"chunk\",\"output\":{\"n\":1,\"done\":true}}">>, false},
        {<<"{\"id\":7,\"seq\":0,\"type\":\"chunk\",\"text\":\",\\\"done\\\":true}\"}">>, false},
        {<<"{}">>, false}
    ],
    [fun() -> ?assertEqual({Line, Last}, {Line, dspy_bridge_line:is_last(Line, Pattern)}) end || {Line, Last} <- Lines].
