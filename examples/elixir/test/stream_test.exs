defmodule DspyBridge.StreamTest do
  use ExUnit.Case, async: true
  import DspyBridge.Test.Workers
  alias DspyBridge.Error

  setup_all do
    pool = start_supervised!({DspyBridge.Pool, real() ++ [name: nil]})
    :ok = DspyBridge.await_ready(pool)
    %{pool: pool}
  end

  defp seen(pool, what) do
    {:ok, chunk} = DspyBridge.call("kit.seen", %{}, pool: pool)
    chunk["seen"][what] || 0
  end

  test "a stream gives every chunk, in order, and the last one", %{pool: pool} do
    for credit <- [1, 2, 3, 64, 512] do
      chunks = Enum.to_list(DspyBridge.stream("kit.count", [n: 700], pool: pool, credit: credit))
      assert Enum.map(chunks, & &1["seq"]) == Enum.to_list(0..700)
      assert %{"type" => "complete", "done" => true} = List.last(chunks)
    end
  end

  test "a stream can be consumed again", %{pool: pool} do
    stream = DspyBridge.stream("kit.count", %{"n" => 2}, pool: pool)
    assert length(Enum.to_list(stream)) == 3
    assert length(Enum.to_list(stream)) == 3
  end

  test "many streams at once keep their order", %{pool: pool} do
    1..50
    |> Task.async_stream(
      fn i ->
        stream = DspyBridge.stream("kit.count", %{n: 300 + i, size: i}, pool: pool, credit: i)
        for(%{"n" => n} <- stream, do: n) == Enum.to_list(0..(299 + i))
      end,
      max_concurrency: 50,
      timeout: 30_000
    )
    |> Enum.each(&assert &1 == {:ok, true})
  end

  test "no more is sent than there is credit for", %{pool: pool} do
    before = seen(pool, "flooded")

    for _ <- Enum.take(DspyBridge.stream("kit.flood", %{}, pool: pool, credit: 8), 20) do
      assert {:messages, messages} = Process.info(self(), :messages)
      assert length(messages) <= 8
    end

    assert seen(pool, "flooded") - before < 50
  end

  test "leaving early cancels", %{pool: pool} do
    for gate <- ["taken", "raised", "thrown"] do
      stream = DspyBridge.stream("kit.hold", %{gate: gate}, pool: pool)

      try do
        Enum.each(stream, fn %{"type" => "started"} ->
          if gate == "raised", do: raise("enough")
          throw(:enough)
        end)
      rescue
        RuntimeError -> :ok
      catch
        :enough -> :ok
      end

      assert seen(pool, "hold #{gate} ended") == 1
    end

    {us, [_]} = :timer.tc(fn -> Enum.take(DspyBridge.stream("kit.count", [n: 10_000_000], pool: pool), 1) end)
    assert us < 1_000_000
    refute_received _
  end

  test "a stream whose consumer dies is cancelled", %{pool: pool} do
    test = self()

    consumer =
      spawn(fn ->
        for chunk <- DspyBridge.stream("kit.hold", %{gate: "dead"}, pool: pool), do: send(test, chunk["type"])
      end)

    assert_receive "started", 5_000
    Process.exit(consumer, :kill)
    eventually(fn -> seen(pool, "hold dead ended") == 1 end)
  end

  test "streams can be stepped through side by side", %{pool: pool} do
    stream = DspyBridge.stream("kit.count", [n: 1000], pool: pool, credit: 4)
    pairs = Enum.zip(stream, stream)
    assert length(pairs) == 1001
    assert Enum.all?(pairs, fn {a, b} -> a["seq"] == b["seq"] and a["id"] != b["id"] end)
  end

  test "a call gives the last chunk", %{pool: pool} do
    assert {:ok, %{"type" => "pong", "done" => true}} = DspyBridge.call("ping", %{}, pool: pool)
    assert %{"type" => "complete"} = DspyBridge.call!("kit.count", [n: 5000], pool: pool, credit: 16)
    odd = %{"é\u2028" => ["😀", nil, 10 ** 30, "\0", ""], "deep" => %{"a" => [[[]]]}}
    assert {:ok, %{"echo" => ^odd}} = DspyBridge.call("kit.echo", odd, pool: pool)
    assert {:ok, %{"text" => "a\u2028b" <> _}} = DspyBridge.call("kit.split", %{}, pool: pool)
  end

  test "large chunks and large requests", %{pool: pool} do
    chunks = Enum.to_list(DspyBridge.stream("kit.count", %{n: 4, size: 1_000_000}, pool: pool, credit: 2))

    assert [1_000_000, 1_000_000, 1_000_000, 1_000_000] =
             for(%{"text" => text} <- chunks, do: byte_size(text))

    text = String.duplicate("é", 1_000_000)
    assert {:ok, %{"echo" => %{"text" => ^text}}} = DspyBridge.call("kit.echo", [text: text], pool: pool)
  end

  test "errors are told after the chunks before them", %{pool: pool} do
    test = self()
    stream = DspyBridge.stream("kit.fail", %{how: "bridge", after: 3}, pool: pool)
    error = assert_raise Error, "busy", fn -> Enum.each(stream, &send(test, {:n, &1["n"]})) end

    assert %{code: "lm_rate_limit", retryable: true, retry_after_ms: 1200, details: %{"status" => 429}} =
             error

    for n <- 0..2, do: assert_received({:n, ^n})
    assert {:error, ^error} = DspyBridge.call("kit.fail", %{how: "bridge"}, pool: pool)
    assert {:error, %Error{code: "unknown_command"}} = DspyBridge.call("no such command", %{}, pool: pool)
    assert_raise Error, fn -> DspyBridge.call!("no such command", %{}, pool: pool) end
  end

  test "an item's error is an element, and a type alone ends nothing", %{pool: pool} do
    types = for chunk <- DspyBridge.stream("kit.final", %{}, pool: pool), do: chunk["type"]
    assert types == ["complete", "error", "verdict"]
  end

  test "a request has its time", %{pool: pool} do
    assert {:error, %Error{code: "deadline_exceeded", retryable: true}} =
             DspyBridge.call("kit.hold", %{gate: "late"}, pool: pool, timeout: 50)
  end

  test "a trace goes along", %{pool: pool} do
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    assert {:ok, %{"traceparent" => ^trace}} =
             DspyBridge.call("kit.context", %{}, pool: pool, traceparent: trace)
  end

  test "what can not be sent is told", %{pool: pool} do
    assert {:error, %Error{code: "invalid_args"}} = DspyBridge.call("kit.echo", %{pid: self()}, pool: pool)
    text = String.duplicate("x", 9_000_000)
    assert {:error, %Error{code: "line_too_long"}} = DspyBridge.call("kit.echo", %{text: text}, pool: pool)
    assert {:ok, _} = DspyBridge.call("ping", %{}, pool: pool)
  end

  test "nobody there is told" do
    assert {:error, %Error{code: "closed", message: message}} = DspyBridge.call("ping", %{}, pool: NoPool)
    assert message =~ "no worker or pool NoPool"
    assert {:error, %Error{code: "closed"}} = DspyBridge.await_ready(NoPool)
    assert {:error, %Error{code: "closed"}} = DspyBridge.configure(%{lm: %{model: "x"}}, pool: NoPool)
  end

  test "both framings" do
    worker = worker([framing: :packet4] ++ real(["--framing", "packet4"]))
    chunks = Enum.to_list(DspyBridge.stream("kit.count", %{n: 3000, size: 50}, pool: worker, credit: 512))
    assert Enum.map(chunks, & &1["seq"]) == Enum.to_list(0..3000)
    [chunk, _last] = Enum.to_list(DspyBridge.stream("kit.count", %{n: 1, size: 1_000_000}, pool: worker))
    assert byte_size(chunk["text"]) == 1_000_000
  end
end
