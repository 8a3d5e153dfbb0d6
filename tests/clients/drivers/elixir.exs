# The Elixir client as the shared tests drive it; tests/conformance/README.md says what a driver does.
Code.require_file("../../../examples/elixir/load.exs", __DIR__)

defmodule Driver do
  alias DspyBridge.{Error, JSON, Pool, Tool, Worker}

  def main do
    # Bytes in, bytes out; and nothing but events.
    :io.setopts(:standard_io, encoding: :latin1)
    Logger.configure(level: :none)
    Process.flag(:trap_exit, true)
    main = self()
    spawn_link(fn -> read(main) end)
    loop(%{client: nil, runs: %{}, counts: %{}})
  end

  defp read(main) do
    case IO.binread(:stdio, :line) do
      line when is_binary(line) ->
        {:ok, operation} = JSON.decode(line)
        send(main, {:operation, operation})
        read(main)

      _eof ->
        send(main, :eof)
    end
  end

  # runs: the processes of operations by monitor, with their ref; counts: what they have counted, by ref
  defp loop(state) do
    receive do
      {:operation, %{"op" => "start"} = operation} ->
        loop(%{state | client: start(operation, state.client)})

      {:operation, %{"op" => "stop", "ref" => ref} = operation} ->
        DspyBridge.stop(state.client, operation["grace_ms"] || 5_000)
        tell(ref, "stopped")
        loop(%{state | client: nil})

      {:operation, %{"op" => "cancel", "ref" => ref}} ->
        for {_monitor, {^ref, pid}} <- state.runs, do: Process.exit(pid, :kill)
        loop(state)

      {:operation, %{"ref" => ref} = operation} ->
        counter = :counters.new(1, [])
        {pid, monitor} = spawn_monitor(fn -> run(operation, state.client, counter) end)
        counts = Map.put(state.counts, ref, counter)
        loop(%{state | runs: Map.put(state.runs, monitor, {ref, pid}), counts: counts})

      {:DOWN, monitor, :process, _pid, reason} ->
        {{ref, _pid}, runs} = Map.pop!(state.runs, monitor)
        {counter, counts} = Map.pop!(state.counts, ref)
        count = :counters.get(counter, 1)

        case reason do
          :normal -> :ok
          :killed -> tell(ref, "left", count: count)
          {%Error{} = error, _stack} -> failed(ref, error, count)
        end

        loop(%{state | runs: runs, counts: counts})

      :eof ->
        if state.client, do: DspyBridge.stop(state.client)

      {:EXIT, _pid, _reason} ->
        loop(state)
    end
  end

  defp start(%{"ref" => ref, "argv" => argv} = operation, former) do
    if former, do: DspyBridge.stop(former)
    framing = if operation["framing"] == "packet4", do: :packet4, else: :lines
    options = [argv: argv, framing: framing, ready_timeout: operation["ready_ms"] || 30_000]

    {:ok, client} =
      case operation["workers"] || 0 do
        0 -> Worker.start_link(options)
        workers -> Pool.start_link([name: nil, workers: workers] ++ options)
      end

    case DspyBridge.await_ready(client, :infinity) do
      :ok ->
        tell(ref, "started")
        client

      {:error, error} ->
        DspyBridge.stop(client, 0)
        failed(ref, error)
        nil
    end
  end

  defp run(%{"op" => "call", "ref" => ref} = operation, client, _counter) do
    case DspyBridge.call(operation["command"], operation["args"] || %{}, options(operation, client)) do
      {:ok, chunk} -> tell(ref, "result", chunk: chunk)
      {:error, error} -> failed(ref, error)
    end
  end

  defp run(%{"op" => "stream", "ref" => ref} = operation, client, counter) do
    %{"report" => report} = operation = Map.put_new(operation, "report", "chunks")
    slow_every = operation["slow_every"] || 0
    began = now()

    step = fn chunk, {count, in_order?, _type} ->
      type = chunk["type"]
      if report == "chunks", do: tell(ref, "chunk", chunk: chunk)
      in_order? = in_order? and (type != "chunk" or chunk["n"] == count)
      count = count + 1
      :counters.put(counter, 1, count)
      if slow_every > 0 and rem(count, slow_every) == 0, do: Process.sleep(operation["slow_ms"])
      result = {count, in_order?, type}
      if count == operation["take"], do: {:halt, {:left, result, now()}}, else: {:cont, result}
    end

    stream = DspyBridge.stream(operation["command"], operation["args"] || %{}, options(operation, client))

    case Enum.reduce_while(stream, {0, true, nil}, step) do
      {:left, {count, _, _}, leaving} ->
        tell(ref, "left", count: count, ms: now() - leaving)

      {count, in_order?, type} ->
        tell(ref, "ended", count: count, in_order: in_order?, ms: now() - began, type: type)
    end
  rescue
    error in Error -> failed(ref, error, :counters.get(counter, 1))
  end

  defp run(%{"op" => "ping", "ref" => ref, "n" => n} = operation, client, _counter) do
    command = operation["command"] || "ping"
    args = operation["args"] || %{}

    times =
      for _ <- 1..n do
        {us, _chunk} = :timer.tc(fn -> DspyBridge.call!(command, args, pool: client) end)
        us
      end

    times = Enum.sort(times)
    tell(ref, "pings", p50_us: Enum.at(times, div(n, 2)), p99_us: Enum.at(times, div(n * 99, 100)))
  end

  defp run(%{"op" => "pids", "ref" => ref}, client, _counter) do
    tell(ref, "pids", pids: for(%{status: :ready, os_pid: os_pid} <- DspyBridge.workers(client), do: os_pid))
  end

  defp run(%{"op" => "raw", "ref" => ref, "argv" => [program | args], "line" => line} = operation, _, _) do
    packet4? = operation["framing"] == "packet4"
    mode = if packet4?, do: {:packet, 4}, else: {:line, 65_536}
    path = System.find_executable(program)
    port = Port.open({:spawn_executable, path}, [:binary, :exit_status, mode, args: args])
    raw_line(port, [])
    began = now()
    Port.command(port, if(packet4?, do: line, else: [line, ?\n]))
    count = raw(port, 0)
    tell(ref, "raw", count: count, ms: now() - began)
    Port.close(port)
  end

  defp raw(port, count) do
    case JSON.decode(raw_line(port, [])) do
      {:ok, %{"done" => true}} -> count + 1
      {:ok, %{}} -> raw(port, count + 1)
    end
  end

  defp raw_line(port, parts) do
    receive do
      {^port, {:data, {:noeol, part}}} -> raw_line(port, [parts, part])
      {^port, {:data, {:eol, part}}} when parts == [] -> part
      {^port, {:data, {:eol, part}}} -> IO.iodata_to_binary([parts, part])
      {^port, {:data, packet}} -> packet
    end
  end

  defp options(operation, client) do
    options = [
      pool: client,
      timeout: operation["timeout_ms"],
      credit: operation["credit"] || 64,
      retries: operation["retries"] || 0
    ]

    Keyword.put(options, :tools, Enum.map(operation["tools"] || [], &tool/1))
  end

  @number %{"type" => "number"}

  defp tool("add") do
    Tool.new("add", "The sum.", %{a: @number, b: @number}, fn %{"a" => a, "b" => b} -> a + b end)
  end

  defp tool("echo"), do: Tool.new("echo", "The value.", %{value: %{}}, fn %{"value" => value} -> value end)
  defp tool("fail"), do: Tool.new("fail", "Fails.", %{}, fn _args -> raise "the tool failed" end)
  defp tool("hang"), do: Tool.new("hang", "Never returns.", %{}, fn _args -> Process.sleep(:infinity) end)

  defp tool("late") do
    Tool.new("late", "Returns after `ms` milliseconds.", %{ms: @number}, fn %{"ms" => ms} ->
      Process.sleep(round(ms))
      "late"
    end)
  end

  defp failed(ref, error, count \\ 0) do
    fields = [code: error.code, error: error.message, retryable: error.retryable, count: count]
    tell(ref, "failed", fields)
  end

  defp tell(ref, event, fields \\ []) do
    line = JSON.encode!(Map.merge(%{ref: ref, event: event}, Map.new(fields)))
    IO.binwrite(:stdio, [line, ?\n])
  end

  defp now, do: System.monotonic_time(:microsecond) / 1000
end

Driver.main()
