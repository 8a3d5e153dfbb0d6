defmodule DspyBridge.OutputTest do
  use ExUnit.Case, async: true
  alias DspyBridge.{Framing, Output}

  # What comes of lines in both framings, fed in pieces of `size` bytes.
  defp fed(lines, ids, size \\ 1_000_000) do
    [a, b] = for framing <- [:lines, :packet4], do: fed(framing, lines, ids, size)
    assert a == b
    a
  end

  defp fed(framing, lines, ids, size) do
    output = Enum.reduce(ids, Output.new(framing, 100), &Output.expect(&2, &1))
    bytes = lines |> Enum.map(&Framing.frame(framing, &1)) |> IO.iodata_to_binary()
    events = feed(output, bytes, size)
    for event <- events, do: plain(event, framing)
  end

  defp feed(_output, "", _size), do: []

  defp feed(output, bytes, size) do
    size = min(size, byte_size(bytes))
    <<piece::binary-size(size), rest::binary>> = bytes
    {events, output} = Output.feed(output, piece)
    # Nothing is fed after the end.
    events ++ if(match?({:broken, _}, List.last(events)), do: [], else: feed(output, rest, size))
  end

  defp plain({:lines, id, lines, last?}, framing),
    do: {id, Enum.drop(Framing.split(framing, lines), -1), last?}

  defp plain(event, _framing), do: event

  test "neighbouring lines of a request stay together" do
    [a, b, c] = for seq <- 0..2, do: ~s({"id":1,"seq":#{seq},"n":1})
    [d, e] = [~s({"id":22,"seq":0}), ~s({"id":22,"seq":0,"a":1})]
    last = ~s({"id":1,"seq":3,"done":true})
    assert fed(["hello", a, b, e, c, last, d], [1, 22]) |> List.first() == {:greeting, "hello"}

    assert [{:greeting, _}, {1, [^a, ^b], false}, {22, [^e], false}, {1, [^c, ^last], true}] =
             fed(["hello", a, b, e, c, last], [1, 22])

    assert [_, _, _, _, {:broken, text}] =
             fed(["hello", a, b, e, c, last, ~s({"id":22,"seq":0,"x":1})], [1, 22])

    assert text =~ "chunk 0 of a request came when 1 was next"
  end

  test "lines may come in any pieces" do
    lines = ["{}", ~s({"id":1,"seq":0,"t":"é"}), ~s({"id":null,"x":1}), ~s({"id":1,"seq":1,"done":true})]
    whole = fed(lines, [1])
    assert length(whole) == 4
    for size <- 1..40, do: assert(fed(lines, [1], size) == whole)
  end

  test "lines that look otherwise are decoded" do
    odd = [~s( {"id" : 1, "seq" : 0}), ~s({"seq":1,"id":1,"done":false}), ~s({"seq":2,"done":true,"id":1} )]
    assert [{:greeting, _}, {1, [_], false}, {1, [_], false}, {1, [_], true}] = fed(["{}" | odd], [1])
  end

  test "requests that nobody waits for are passed over" do
    late = [~s({"id":9,"seq":7}), ~s({"id":"x","seq":0}), ~s({"id":9,"seq":8,"done":true})]
    assert [{:greeting, _}] = fed(["{}" | late], [1])
  end

  test "gaps, repetitions, torn and overlong lines are told" do
    for line <- [
          ~s({"id":1,"seq":1}),
          ~s({"id":1,"x":1}),
          ~s({"id":1,"seq":"0"}),
          "[1]",
          "{",
          "x",
          ~s({"id":9,"seq":0)
        ] do
      assert [{:greeting, _}, {:broken, _}] = fed(["{}", line], [1])
    end

    overlong = fed(["{}", String.duplicate("x", 200)], [1], 50)
    assert {:broken, "A line of the worker is longer than its own limit of 100 bytes."} in overlong
  end

  test "blank lines are none" do
    assert [{:greeting, "{}"}, {1, [_], false}] = fed(["", "\r", "{}", "", ~s({"id":1,"seq":0}), "\r"], [1])
  end
end
