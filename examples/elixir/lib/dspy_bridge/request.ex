defmodule DspyBridge.Request do
  @moduledoc false
  # A request as its consumer has it: all of its state is in the consumer's process and on its node. Worker
  # and pool are told where to send lines, undecoded and several at a time; they come here, tagged with `ref`.

  alias DspyBridge.{Error, Framing, JSON, Options, Telemetry, Tool, ToolRunner, Worker}

  # How long a request waits for a worker that is ready, in milliseconds.
  @wait 30_000
  # How much later than the worker the client itself takes a request for overdue.
  @late 2_000

  # ref: an alias, so that nothing comes any more once it is given up
  # lines: what came and is not decoded yet; told_last?: the worker took its last line for the request's last
  # waited: milliseconds it took to find workers that are ready; sent_at: when the last was found
  # taken: chunks handed over since credit was last granted; ended: :done or the error, once that is known
  defstruct [
    :server,
    :command,
    :body,
    :tools,
    :credit,
    :retries,
    :timeout,
    :deadline,
    :sent_at,
    :handler,
    :span,
    :began,
    :ref,
    :runner,
    :worker,
    :port,
    :monitor,
    :ended,
    :type,
    lines: [],
    framing: :lines,
    told_last?: false,
    waited: 0,
    taken: 0,
    count: 0
  ]

  @type t :: %__MODULE__{}

  @doc "Makes the request; options are those of `DspyBridge.stream/3`."
  @spec open(String.t(), Enumerable.t(), keyword) :: t
  def open(command, args, options) do
    options = Options.request!(options)
    timeout = if options[:timeout] != :infinity, do: options[:timeout]
    credit = Keyword.get(options, :credit, 64)
    {host_tools, tools} = Enum.split_with(options[:tools] || [], &is_struct(&1, Tool))

    body =
      %{"command" => command, "args" => declare(named(args), host_tools ++ tools), "credit" => credit}
      |> put("timeout_ms", timeout)
      |> put("traceparent", options[:traceparent])
      |> body()

    request = %__MODULE__{
      server: Keyword.get(options, :pool, DspyBridge.Pool),
      command: command,
      body: body,
      tools: host_tools,
      credit: credit,
      retries: Keyword.get(options, :retries, 0),
      timeout: timeout,
      deadline: timeout && now() + timeout,
      handler: Telemetry.handler(options),
      span: make_ref(),
      began: System.monotonic_time()
    }

    tell_handler(request, :start, %{system_time: System.system_time()}, %{})
    begin(request, nil)
  end

  @doc "A request's JSON but for its first brace and its id, which the worker's process adds."
  @spec body(map) :: binary
  def body(request) do
    <<?{, body::binary>> = JSON.encode!(request)
    body
  end

  @doc "What is said when nobody is there to take requests."
  @spec absent(GenServer.server()) :: Error.t()
  def absent(server) do
    Error.new("closed", "There is no worker or pool #{inspect(server)}: it was not started, or is stopped.")
  end

  @doc "Arguments as a map with names as strings."
  @spec named(Enumerable.t()) :: map
  def named(args), do: Map.new(args, fn {name, value} -> {to_string(name), value} end)

  defp declare(args, []), do: args
  defp declare(args, tools), do: Map.update(args, "tools", declared(tools), &(&1 ++ declared(tools)))
  defp declared(tools), do: Enum.map(tools, &Tool.declaration/1)

  defp put(request, _key, nil), do: request
  defp put(request, key, value), do: Map.put(request, key, value)

  # Sends the request and waits until a worker has it. `avoid`: the worker and port that would not take it.
  defp begin(request, avoid) do
    ref = :erlang.alias()
    runner = if request.tools != [], do: ToolRunner.start(ref, request.tools, request.handler, request.span)
    sent = %{ref: ref, to: runner || ref, owner: runner || self(), body: request.body, pooled: false}
    request = %{request | ref: ref, runner: runner}
    began = now()

    case ask(request, GenServer.whereis(request.server), {:open, sent, avoid}) do
      {:ok, worker, port} ->
        if runner, do: ToolRunner.watch(runner, worker)
        monitor = Process.monitor(runner || worker)
        waited = request.waited + now() - began
        %{request | worker: worker, port: port, monitor: monitor, sent_at: now(), waited: waited}

      {:error, error} ->
        release(request)
        fail(request, error)
    end
  end

  defp ask(request, nil, _message), do: {:error, absent(request.server)}

  defp ask(request, server, message) do
    monitor = Process.monitor(server)
    GenServer.cast(server, message)
    result = opened(request, monitor)
    Process.demonitor(monitor, [:flush])
    result
  end

  defp opened(%{ref: ref} = request, server) do
    receive do
      {^ref, worker, {:opened, port}} ->
        {:ok, worker, port}

      {^ref, _worker, {:failed, error}} ->
        {:error, error}

      {:DOWN, ^server, :process, _pid, :noconnection} ->
        {:error, Error.process_down(:noconnection)}

      {:DOWN, ^server, :process, _pid, _reason} ->
        {:error, absent(request.server)}
    after
      min(max(0, @wait - request.waited), left(request, 0)) -> withdrawn(request, server)
    end
  end

  defp withdrawn(request, server) do
    case GenServer.call(request.server, {:withdraw, request.ref}) do
      :gone ->
        opened(request, server)

      {:waited, reason} ->
        text = "No worker was ready in time."
        text = if reason, do: "#{text} #{reason.message}", else: text
        {:error, Error.new("start_failed", text, true, if(reason, do: reason.details, else: %{}))}
    end
  catch
    :exit, _reason -> {:error, Worker.closed()}
  end

  @doc "More chunks, for `Stream.resource/3`. Raises the request's error once all before it are handed over."
  @spec next(t) :: {[map], t} | {:halt, t}
  def next(%{lines: [_ | _]} = request), do: request |> grant() |> decode()
  def next(%{ended: nil} = request), do: {[], request |> grant() |> receive_more()}
  def next(%{ended: :done} = request), do: {:halt, request}

  def next(%{ended: error} = request) do
    if again?(request, error) do
      avoid = {request.worker, request.port}
      retries = if error.code == "worker_died", do: request.retries - 1, else: request.retries
      fresh = %{release(request) | retries: retries, ended: nil, told_last?: false}
      fresh |> begin(avoid) |> next()
    else
      fail(request, error)
    end
  end

  # Only what gave no chunk yet is asked for once more.
  defp again?(%{count: 0}, %{code: "shutting_down"}), do: true
  defp again?(%{count: 0, retries: n}, %{code: "worker_died"}), do: n > 0
  defp again?(_request, _error), do: false

  @doc "Ends the request if it has not ended, and forgets it. Returns at once."
  @spec close(t) :: :ok
  def close(request) do
    if request.ended == nil or not request.told_last?, do: tell(request, {:cancel, request.ref})
    release(request)

    if is_struct(request.ended),
      do: :ok,
      else: tell_handler(request, :stop, spent(request), %{type: request.type})
  end

  defp release(request) do
    :erlang.unalias(request.ref)
    if request.monitor, do: Process.demonitor(request.monitor, [:flush])
    if request.runner, do: ToolRunner.stop(request.runner)
    flush(request.ref)
    %{request | lines: []}
  end

  defp flush(ref) do
    receive do
      {^ref, _worker, _event} -> flush(ref)
    after
      0 -> :ok
    end
  end

  @spec fail(t, Error.t()) :: no_return
  defp fail(request, error) do
    tell_handler(request, :exception, spent(request), %{error: error})
    raise error
  end

  defp tell_handler(request, event, measurements, metadata) do
    metadata = Map.merge(metadata, %{ref: request.span, command: request.command})
    Telemetry.tell(request.handler, [:request, event], measurements, metadata)
  end

  defp spent(request), do: %{duration: System.monotonic_time() - request.began, chunks: request.count}
  defp tell(request, message), do: GenServer.cast(request.worker, message)

  # Half a window taken: so much is granted anew. Not when it is too late: then what is there is the rest.
  defp grant(%{taken: taken, ended: nil} = request) when taken > 0 and taken * 2 >= request.credit do
    if left(request, @late) == 0 do
      request
    else
      tell(request, {:credit, request.ref, taken})
      %{request | taken: 0}
    end
  end

  defp grant(request), do: request

  defp receive_more(%{ref: ref, monitor: monitor} = request) do
    receive do
      {^ref, _worker, {:lines, framing, lines, last?}} ->
        lines = framing |> Framing.split(lines) |> whole()
        %{request | lines: lines, framing: framing, told_last?: last?}

      {^ref, _worker, {:failed, error}} ->
        %{request | ended: error, told_last?: true}

      # The worker is not ready: nothing was sent.
      {^ref, worker, {:again, port}} ->
        error = Error.new("shutting_down", "The worker takes no new requests.", true)
        %{request | worker: worker, port: port, ended: error, told_last?: true}

      {:DOWN, ^monitor, :process, _pid, reason} ->
        %{request | ended: Error.process_down(reason), told_last?: true}
    after
      left(request, @late) ->
        # If it had the time to itself, and was not only waited for.
        if now() - request.sent_at >= request.timeout + div(@late, 2),
          do: tell(request, {:overdue, request.ref, request.port})

        text = "The worker gave no end in time, nor #{@late} ms later."
        %{request | ended: Error.new("deadline_exceeded", text, true)}
    end
  end

  defp whole(lines), do: :lists.droplast(lines)

  defp left(%{deadline: nil}, _more), do: :infinity
  defp left(%{deadline: deadline}, more), do: max(0, deadline + more - now())
  defp now, do: System.monotonic_time(:millisecond)

  # At most half a window at a time: so that credit is granted in time, and little is held decoded.
  defp decode(request) do
    {chunks, request} = decode(request.lines, max(1, div(request.credit, 2)), [], request)
    n = length(chunks)
    {chunks, %{request | taken: request.taken + n, count: request.count + n}}
  end

  defp decode([], _left, chunks, request) do
    request = if request.told_last? and request.ended == nil, do: torn(request, "a last line"), else: request
    {:lists.reverse(chunks), %{request | lines: []}}
  end

  defp decode(lines, 0, chunks, request), do: {:lists.reverse(chunks), %{request | lines: lines}}

  defp decode([line | lines], left, chunks, request) do
    case JSON.decode(line) do
      {:ok, %{"done" => true} = chunk} ->
        unless request.told_last?, do: tell(request, {:ended, request.ref})
        last(chunk, chunks, %{request | lines: [], told_last?: true})

      {:ok, %{} = chunk} ->
        if request.runner == nil, do: decline(request, chunk)
        decode(lines, left - 1, [chunk | chunks], request)

      _no_object ->
        {:lists.reverse(chunks), torn(%{request | lines: []}, line)}
    end
  end

  # Without tools there is no runner; the worker must not wait for an answer all the same.
  defp decline(request, %{"type" => "tool_call", "host" => true, "name" => name} = chunk) do
    tell(request, Tool.answer(request.ref, chunk["call_id"], Tool.run(%{}, name, %{})))
  end

  defp decline(_request, _chunk), do: :ok

  defp last(%{"type" => type} = chunk, chunks, request) when type in ["error", "cancelled"] do
    {:lists.reverse(chunks), %{request | ended: Error.from_chunk(chunk)}}
  end

  defp last(chunk, chunks, request) do
    {:lists.reverse([chunk | chunks]), %{request | ended: :done, type: chunk["type"]}}
  end

  defp torn(request, line) do
    text = "The worker wrote a line that is no chunk: #{inspect(line, printable_limit: 80)}."
    tell(request, {:violation, request.port, text})
    %{request | ended: Error.new("protocol_error", text)}
  end
end
