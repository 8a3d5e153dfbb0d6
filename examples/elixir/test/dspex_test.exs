defmodule DSPexTest do
  use ExUnit.Case, async: true
  import DspyBridge.Test.Workers
  alias DspyBridge.{Error, Tool}
  alias DSPex.Modules.{ChainOfThought, Predict, ReAct}

  setup_all do
    pool = fn script -> {DspyBridge.Pool, real(scripted(script)) ++ [name: nil]} end
    batches = start_supervised!(Supervisor.child_spec(pool.("quickstart.script.jsonl"), id: :batches))
    streams = start_supervised!(Supervisor.child_spec(pool.("streaming.script.jsonl"), id: :streams))
    for pool <- [batches, streams], do: :ok = DspyBridge.await_ready(pool)
    %{batches: batches, streams: streams}
  end

  # A callback that keeps its events in this process.
  defp keep do
    test = self()
    fn event -> send(test, {:event, event}) end
  end

  defp heard do
    receive do
      {:event, event} -> [event | heard()]
    after
      0 -> []
    end
  end

  @items [%{text: "Paris is the capital of"}, %{text: "The largest planet is"}]

  test "a batch", %{batches: pool} do
    assert {:ok, %{"succeeded" => 2, "failed" => 0}} =
             Predict.stream_batch("text -> completion", @items, keep(), pool: pool)

    assert heard() == [
             {:prediction, 0, %{"completion" => "France"}, 0.5},
             {:prediction, 1, %{"completion" => "Jupiter"}, 1.0},
             {:complete, 2}
           ]
  end

  test "an item that fails is an event", %{batches: pool} do
    items = [%{wrong: "field"} | @items]

    assert {:ok, %{"failed" => 1}} =
             Predict.stream_batch("text -> completion", items, keep(), pool: pool, order: "input")

    assert [{:error, 0, %Error{code: "invalid_args"}}, {:prediction, 1, _, _}, _, {:complete, 3}] = heard()
  end

  test "a batch that can not be is an error", %{batches: pool} do
    assert {:error, %Error{code: "invalid_args"}} =
             Predict.stream_batch("no arrow", @items, keep(), pool: pool)

    assert {:error, %Error{code: "invalid_args"}} =
             Predict.stream_batch("a -> b", @items, keep(), pool: pool, no_such: 1)

    assert {:error, %Error{code: "closed"}} = Predict.stream_batch("a -> b", [], keep(), pool: NoPool)
    assert heard() == []
  end

  test "halting cancels", %{batches: pool} do
    callback = fn event -> send(self(), {:event, event}) && :halt end

    assert {:error, %Error{code: "cancelled", retryable: false}} =
             Predict.stream_batch("text -> completion", @items, callback, pool: pool)

    assert [{:prediction, 0, _, _}] = heard()
    # At the last event there is nothing left to cancel.
    callback = fn event -> if match?({:complete, _}, event), do: :halt end

    assert {:ok, %{"type" => "complete"}} =
             Predict.stream_batch("text -> completion", @items, callback, pool: pool)

    assert [%{requests: 0}] = DspyBridge.workers(pool)
  end

  @sky %{question: "Why is the sky blue?"}
  @answer "Because air scatters blue light the most."

  test "a prediction, token by token", %{streams: pool} do
    assert {:ok, _} = Predict.stream("question -> answer", @sky, keep(), pool: pool)
    {tokens, [{:prediction, output, %{"done" => true}}]} = Enum.split(heard(), -1)
    assert output == %{"answer" => @answer}
    assert Enum.map_join(tokens, fn {:token, "answer", delta} -> delta end) == @answer
  end

  test "a chain of thought", %{streams: pool} do
    assert {:ok, _} = ChainOfThought.stream("question -> answer", @sky, keep(), pool: pool)

    assert [
             {:thinking, "started"},
             {:reasoning_step, 1, "Sunlight is made of all colours."},
             {:reasoning_step, 2, _},
             {:reasoning_step, 3, _},
             {:thinking, "answering"},
             {:final_answer, @answer, %{"output" => %{"answer" => @answer}}}
           ] = heard()

    assert {:ok, _} = ChainOfThought.stream("question -> answer", @sky, keep(), pool: pool, tokens: true)
    assert Enum.map_join(for({:token, "answer", delta} <- heard(), do: delta), & &1) == @answer
  end

  test "an agent with functions of this node", %{streams: pool} do
    population =
      Tool.new("population", "Inhabitants of a country.", %{country: %{type: "string"}}, fn
        %{"country" => "France"} -> 68_000_000
        %{"country" => country} -> {:error, "No country is called #{country}."}
      end)

    inputs = %{question: "Do more people live in France or in Spain?"}

    assert {:ok, chunk} =
             ReAct.stream("question -> answer", inputs, [population], keep(), pool: pool, max_iters: 5)

    assert %{"answer" => "In France.", "trajectory" => _} = chunk

    assert [
             {:thought, 1, "I need the population of France."},
             {:tool_call, 1, "population", %{"country" => "France"}},
             {:observation, 1, "population", 68_000_000},
             {:thought, 2, _},
             {:tool_call, 2, "population", %{"country" => "Spain"}},
             {:tool_error, 2, "population", text},
             {:thought, 3, _},
             {:final_answer, "In France.", ^chunk}
           ] = heard()

    assert text =~ "No country is called Spain."
  end

  test "a model is configured by name", %{streams: pool} do
    assert {:ok, %{"name" => "other", "model" => "scripted", "scripted" => true}} =
             DSPex.LM.configure("scripted", name: "other", temperature: 0.5, pool: pool)

    assert {:error, %Error{code: "unknown_lm"}} =
             Predict.stream("question -> answer", @sky, keep(), pool: pool, lm: "none")

    assert {:ok, _} = Predict.stream("question -> answer", @sky, keep(), pool: pool, lm: "other")
    assert {:error, %Error{code: "invalid_args"}} = DSPex.LM.configure("scripted", no_such: 1, pool: pool)
  end

  test "what a callback raises is not how its request ended", %{batches: pool} do
    batch = fn callback -> Predict.stream_batch("text -> completion", @items, callback, pool: pool) end
    nested = fn _event -> DspyBridge.call!("no_such_command", %{}, pool: pool) end
    assert_raise Error, ~r/no_such_command/, fn -> batch.(nested) end
    assert_raise RuntimeError, "no", fn -> batch.(fn _event -> raise "no" end) end
    eventually(fn -> match?([%{requests: 0}], DspyBridge.workers(pool)) end)
    # One that handles its own errors goes on, with requests of its own besides.
    assert {:ok, _} = batch.(fn _event -> {:error, %Error{}} = DspyBridge.call("nope", %{}, pool: pool) end)
  end
end
