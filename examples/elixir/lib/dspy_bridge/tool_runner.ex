defmodule DspyBridge.ToolRunner do
  @moduledoc false
  # Stands between a worker and a consumer that has tools, on the consumer's node: hands on what comes, and
  # answers the tool calls among it at once, however long the consumer takes to get to them. Its end, with
  # the consumer's or by `stop/1`, is that of all calls still running.

  alias DspyBridge.{Error, Framing, JSON, Telemetry, Tool}

  defstruct [:ref, :consumer, :tools, :handler, :span, :callers, :worker, calls: %{}]

  @doc "Starts one for the request `ref` of the calling process; `span` is what the handler knows that by."
  @spec start(reference, [Tool.t()], Telemetry.handler() | nil, reference) :: pid
  def start(ref, tools, handler, span) do
    state = %__MODULE__{
      ref: ref,
      consumer: self(),
      tools: Map.new(tools, &{&1.name, &1}),
      handler: handler,
      span: span,
      callers: [self() | Process.get(:"$callers", [])]
    }

    spawn(fn ->
      Process.flag(:trap_exit, true)
      Process.monitor(state.consumer)
      for {_monitor, {tool, _call_id}} <- loop(state), do: Process.exit(tool, :kill)
    end)
  end

  @doc "Has it watch the worker, so that it can tell of its end."
  @spec watch(pid, pid) :: :ok
  def watch(runner, worker), do: tell(runner, {:watch, worker})

  @doc "Ends it and every call."
  @spec stop(pid) :: :ok
  def stop(runner), do: tell(runner, :stop)

  defp tell(runner, message) do
    send(runner, message)
    :ok
  end

  # Until the request is over; gives the calls that still run.
  defp loop(%{ref: ref, consumer: consumer, worker: worker, calls: calls} = state) do
    receive do
      {^ref, worker, {:lines, framing, lines, last?}} = message ->
        send(ref, message)
        state = Enum.reduce(Framing.split(framing, lines), %{state | worker: worker}, &look/2)
        if last?, do: state.calls, else: loop(state)

      {^ref, _worker, _end} = message ->
        send(ref, message)
        calls

      {:watch, worker} ->
        Process.monitor(worker)
        loop(%{state | worker: worker})

      {:DOWN, monitor, :process, _tool, reason} when is_map_key(calls, monitor) ->
        {{_tool, call_id}, calls} = Map.pop!(calls, monitor)

        unless reason == :normal,
          do: answer(state, call_id, {:error, "The tool ended: #{inspect(reason)}."})

        loop(%{state | calls: calls})

      {:DOWN, _monitor, :process, ^worker, reason} ->
        send(ref, {ref, worker, {:failed, Error.process_down(reason)}})
        calls

      {:DOWN, _monitor, :process, ^consumer, _reason} ->
        calls

      :stop ->
        calls

      _other ->
        loop(state)
    end
  end

  # Only lines with these letters can be calls; they are the only ones decoded here.
  defp look(line, state) do
    with {_, _} <- :binary.match(line, "tool_call"),
         {:ok, %{"type" => "tool_call", "host" => true} = chunk} <- JSON.decode(line) do
      call_id = chunk["call_id"]
      work = fn -> work(state, call_id, chunk["name"], chunk["args"] || %{}) end
      {tool, monitor} = :erlang.spawn_opt(work, [:link, :monitor])
      %{state | calls: Map.put(state.calls, monitor, {tool, call_id})}
    else
      _no_call -> state
    end
  end

  # In the call's own process.
  defp work(state, call_id, name, args) do
    Process.put(:"$callers", state.callers)
    began = System.monotonic_time()
    result = Tool.run(state.tools, name, args)
    answer(state, call_id, result)
    error = if match?({:error, _}, result), do: elem(result, 1)
    duration = System.monotonic_time() - began
    meta = %{ref: state.span, name: name, error: error}
    Telemetry.tell(state.handler, [:tool, :stop], %{duration: duration}, meta)
  end

  defp answer(state, call_id, result) do
    GenServer.cast(state.worker, Tool.answer(state.ref, call_id, result))
  end
end
