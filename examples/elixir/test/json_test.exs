defmodule DspyBridge.JSONTest do
  use ExUnit.Case, async: true
  alias DspyBridge.{Error, JSON}

  test "values come back as they were" do
    values = [
      nil,
      true,
      false,
      0,
      -1,
      1.5,
      1.0e300,
      10 ** 40,
      "",
      "é\u2028😀\0\"\\\n",
      [],
      %{},
      [[], [nil]],
      %{"" => %{"a" => [1]}}
    ]

    assert JSON.decode(JSON.encode!(values)) == {:ok, values}
    for value <- values, do: assert(JSON.decode!(JSON.encode!(value)) == value)
  end

  test "what Elixir has besides becomes what JSON has" do
    given = %{
      atom: :x,
      date: ~D[2026-01-02],
      at: ~U[2026-01-02 03:04:05Z],
      time: ~T[03:04:05],
      n: %{1 => [a: 1] |> Map.new()}
    }

    wanted = %{
      "atom" => "x",
      "date" => "2026-01-02",
      "at" => "2026-01-02 03:04:05Z",
      "time" => "03:04:05",
      "n" => %{"1" => %{"a" => 1}}
    }

    assert JSON.decode!(JSON.encode!(given)) == wanted
  end

  test "long and large results are whole binaries" do
    list = Enum.to_list(1..100_000)
    assert is_binary(JSON.encode!(list))

    assert JSON.decode!(JSON.encode!(%{"n" => 10 ** 30, "list" => list})) == %{
             "n" => 10 ** 30,
             "list" => list
           }

    text = String.duplicate("é😀", 200_000)
    assert JSON.decode!(JSON.encode!(text)) == text
  end

  test "what is no JSON is one kind of error" do
    bad = [
      "",
      "{",
      "{} x",
      "nul",
      "[1,]",
      "\"\\ud800\"",
      "{\"a\":\"" <> <<255>> <> "\"}",
      "\"\xc3\"",
      "[" |> String.duplicate(9999)
    ]

    for text <- bad do
      assert {:error, %Error{code: "parse_error", message: message}} = JSON.decode(text)
      assert is_binary(message)
    end

    assert_raise Error, fn -> JSON.decode!("{") end
  end

  test "what can not be JSON is one kind of error" do
    for value <- [
          self(),
          {1, 2},
          <<255>>,
          %{"a" => <<0xC3>>},
          [make_ref()],
          [a: 1],
          URI.parse("x:y"),
          fn -> 1 end,
          [1 | 2]
        ] do
      assert {:error, %Error{code: "invalid_args", retryable: false}} = JSON.encode(value)
    end

    assert_raise Error, ~r/URI is a struct/, fn -> JSON.encode!(%{uri: URI.parse("x:y")}) end
  end

  test "decoded texts do not keep the line alive" do
    line = JSON.encode!(%{"short" => String.duplicate("x", 100), "long" => String.duplicate("y", 100_000)})
    assert :binary.referenced_byte_size(JSON.decode!(line)["short"]) < 1_000
  end
end
