defmodule DspyBridge.ToolTest do
  use ExUnit.Case, async: true
  import DspyBridge.Test.Workers
  alias DspyBridge.Tool

  setup_all do
    pool = start_supervised!({DspyBridge.Pool, real() ++ [name: nil]})
    :ok = DspyBridge.await_ready(pool)
    %{pool: pool}
  end

  # What the worker gets from a tool with this function.
  defp ask(pool, run, args \\ %{}, more \\ %{}) do
    args = Map.merge(%{name: "tool", args: args}, more)

    {:ok, chunk} =
      DspyBridge.call("kit.tool", args, pool: pool, tools: [Tool.new("tool", "A tool.", %{}, run)])

    chunk["code"] || {:value, chunk["value"]}
    if chunk["code"], do: {chunk["code"], chunk["error"]}, else: {:value, chunk["value"]}
  end

  test "a tool's value is the answer", %{pool: pool} do
    for value <- [nil, 1.5, "é\u2028😀", [], %{"a" => [nil]}, String.duplicate("x", 500_000)] do
      assert ask(pool, & &1["value"], %{value: value}) == {:value, value}
    end

    assert ask(pool, fn %{} -> {:ok, %{sum: 3}} end) == {:value, %{"sum" => 3}}
    assert ask(pool, fn _ -> ~D[2026-01-02] end) == {:value, "2026-01-02"}
  end

  test "every way to fail is an answer, in words", %{pool: pool} do
    assert {"tool_error", "it is broken"} = ask(pool, fn _ -> raise "it is broken" end)
    assert {"tool_error", "argument error"} = ask(pool, fn _ -> :erlang.error(:badarg) end)
    assert {"tool_error", "no function clause" <> _} = ask(pool, fn %{"a" => a} -> a end)
    assert {"tool_error", "The tool threw :ball."} = ask(pool, fn _ -> throw(:ball) end)
    assert {"tool_error", "The tool exited: :gone."} = ask(pool, fn _ -> exit(:gone) end)
    assert {"tool_error", "No such country."} = ask(pool, fn _ -> {:error, "No such country."} end)
    assert {"tool_error", ":enoent"} = ask(pool, fn _ -> {:error, :enoent} end)
    assert {"tool_error", "no"} = ask(pool, fn _ -> {:error, RuntimeError.exception("no")} end)
    assert {"tool_error", "The tool's value: " <> _} = ask(pool, fn _ -> self() end)
    assert {"tool_error", "The tool's value: " <> _} = ask(pool, fn _ -> <<255>> end)
    assert {"tool_error", "<<255>>"} = ask(pool, fn _ -> {:error, <<255>>} end)
    assert {"tool_error", "The tool ended: :killed."} = ask(pool, fn _ -> Process.exit(self(), :kill) end)
    assert {"tool_error", "The host has no tool called other."} = ask(pool, & &1, %{}, %{name: "other"})
    {:ok, chunk} = DspyBridge.call("kit.tool", %{name: "tool"}, pool: pool)
    assert %{"code" => "tool_error", "error" => "The host has no tool called tool."} = chunk
  end

  test "a call that runs when the request ends is killed", %{pool: pool} do
    test = self()
    hang = fn _ -> send(test, {:tool, self()}) && Process.sleep(:infinity) end

    # By the worker's patience, by the consumer's leaving, by its death.
    assert {"tool_timeout", _} = ask(pool, hang, %{}, %{timeout_s: 0.1})
    assert_received {:tool, tool}
    eventually(fn -> not Process.alive?(tool) end)

    stream =
      DspyBridge.stream("kit.tool", %{name: "tool"}, pool: pool, tools: [Tool.new("tool", "", %{}, hang)])

    assert [%{"type" => "tool_call"}] = Enum.take(stream, 1)
    assert_receive {:tool, tool}
    eventually(fn -> not Process.alive?(tool) end)

    consumer = spawn(fn -> Stream.run(stream) end)
    assert_receive {:tool, tool}, 5_000
    Process.exit(consumer, :kill)
    eventually(fn -> not Process.alive?(tool) end)

    for worker <- DspyBridge.workers(pool),
        do: eventually(fn -> match?([%{requests: 0}], [worker | []] && DspyBridge.workers(pool)) end)
  end

  test "calls run at once, before the consumer gets to them", %{pool: pool} do
    test = self()
    tool = Tool.new("tool", "", %{}, fn _ -> send(test, :asked) end)
    stream = DspyBridge.stream("kit.tool", %{name: "tool"}, pool: pool, tools: [tool])

    types =
      for chunk <- stream do
        # The call is the first chunk; its answer needs nothing from here.
        assert_receive :asked, 5_000
        send(self(), :asked)
        chunk["type"]
      end

    assert types == ["tool_call", "result"]
  end

  test "several calls run at once", %{pool: pool} do
    test = self()

    meet = fn _ ->
      send(test, {:here, self()})
      receive(do: (:go -> "met"))
    end

    tools = [Tool.new("tool", "", %{}, meet)]

    calls =
      for _ <- 1..3,
          do: Task.async(fn -> DspyBridge.call("kit.tool", %{name: "tool"}, pool: pool, tools: tools) end)

    pids = for _ <- 1..3, do: receive(do: ({:here, pid} -> pid))
    for pid <- pids, do: send(pid, :go)
    for call <- calls, do: assert({:ok, %{"value" => "met"}} = Task.await(call))
  end

  test "a tool is declared with its name, description and arguments", %{pool: pool} do
    args = %{country: %{type: "string"}}
    tools = [Tool.new("population", "Inhabitants.", args, & &1, required: []), "of_the_worker"]

    assert {:ok, %{"echo" => echo}} =
             DspyBridge.call("kit.echo", %{tools: ["given"]}, pool: pool, tools: tools)

    assert echo["tools"] == [
             "given",
             %{
               "name" => "population",
               "desc" => "Inhabitants.",
               "args" => %{"country" => %{"type" => "string"}},
               "required" => []
             },
             "of_the_worker"
           ]
  end

  test "a tool knows whom it works for", %{pool: pool} do
    test = self()
    assert {:value, true} = ask(pool, fn _ -> test in Process.get(:"$callers") end)
  end

  test "an answer that is longer than the worker reads is an error, at once", %{pool: pool} do
    assert {"tool_error", text} = ask(pool, fn _ -> String.duplicate("x", 9_000_000) end)
    assert text =~ "longer than the worker's limit"
  end
end
