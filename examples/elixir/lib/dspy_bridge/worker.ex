defmodule DspyBridge.Worker do
  @moduledoc """
  A worker's program and the process that owns its port. Requests are made with `DspyBridge`, by its pid,
  its name, or from another node `{name, node}`.

      children = [{DspyBridge.Worker, name: MyWorker, flags: ["--model", "openai/gpt-4o-mini"]}]
      DspyBridge.call("ping", %{}, pool: MyWorker)

  The process outlives the program: when the program ends, running requests fail with `"worker_died"` and it
  is started again, at once the first time, then after 100 ms, doubled up to 10 s; the count begins anew when
  one has lived for 10 s. Requests made meanwhile wait. A program that recycles itself is replaced at once.

  Options:

    * `:name` - as of any GenServer
    * `:argv` - the program and its arguments (default `["dspy-bridge", "serve"]`); no shell reads them
    * `:flags` - more arguments (default none)
    * `:framing` - `:lines` (default), or `:packet4`, which adds `--framing packet4` to the arguments unless
      they say `--framing` themselves
    * `:cd`, `:env` - the program's folder, and variables as `%{"NAME" => "value"}` (nil removes one)
    * `:ready_timeout` - milliseconds until its first line (default 30,000)
    * `:grace_ms` - how long requests may go on when the process is stopped (default 5,000)
    * `:telemetry` - see `DspyBridge.Telemetry`

  The program's stderr is this runtime's own; `flags: ["--log-file", path]` sends its log elsewhere. The
  runtime tells of a program's end when it has ended *and* its stdout is closed: a child that it leaves behind
  with an open stdout delays that.
  """

  use GenServer
  require Logger
  alias DspyBridge.{Configurations, Error, Framing, JSON, Options, Output, Program, Request, Telemetry}
  alias DspyBridge.Waiting

  @default_limit 8 * 1024 * 1024
  # A worker that lived so long did not fail at its start.
  @lived_ms 10_000
  # More than a `tool_result` has besides the answer.
  @around 300

  # status: down, starting, configuring, ready, leaving (it takes nothing new) or stopping
  # routes: running requests by id; refs: their ids by the consumer's reference
  # waiting: requests that came while it was not ready; useful?: it has answered somebody
  # Logs show no more of it than this: the rest may hold keys.
  @derive {Inspect, only: [:status, :program, :restarts, :last_error]}
  defstruct [
    :options,
    :pool,
    :handler,
    :program,
    :output,
    :born,
    :version,
    :last_error,
    status: :down,
    bye?: false,
    useful?: false,
    routes: %{},
    refs: %{},
    next_id: 1,
    waiting: [],
    awaiting: [],
    configurations: %Configurations{},
    replaying: 0,
    configured: 0,
    restarts: 0
  ]

  def child_spec(options) do
    grace_ms = Keyword.get(options, :grace_ms, 5_000)
    id = Keyword.get(options, :name, __MODULE__)
    %{id: id, start: {__MODULE__, :start_link, [options]}, shutdown: grace_ms + 5_000}
  end

  @doc "Starts the process, which then starts the program: see `DspyBridge.await_ready/2`."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options \\ []) do
    Options.worker!(options, [:pool])
    GenServer.start_link(__MODULE__, options, Keyword.take(options, [:name]))
  end

  # ---- callbacks --------------------------------------------------------------------------------------

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    # Blocks of output wait in the mailbox; a collection of garbage need not copy them.
    Process.flag(:message_queue_data, :off_heap)
    state = %__MODULE__{options: options, pool: options[:pool], handler: Telemetry.handler(options)}
    {:ok, state, {:continue, :boot}}
  end

  @impl true
  def handle_continue(:boot, state), do: {:noreply, boot(state)}

  @impl true
  def handle_call(:await_ready, _from, %{status: :ready} = state), do: {:reply, :ok, state}
  def handle_call(:await_ready, from, state), do: {:noreply, %{state | awaiting: [from | state.awaiting]}}
  def handle_call(:workers, _from, state), do: {:reply, [self()], state}

  def handle_call(:ready, _from, state), do: {:reply, ready(state), state}
  def handle_call(:about, _from, state), do: {:reply, about(state), state}

  def handle_call({:withdraw, ref}, _from, state) do
    {waited?, others} = Waiting.withdraw(state.waiting, ref)
    {:reply, if(waited?, do: {:waited, state.last_error}, else: :gone), %{state | waiting: others}}
  end

  # What is configured is kept, and told to the next program before it counts as ready.
  def handle_call({:remember, args}, _from, state) do
    {:reply, ready(state), %{state | configurations: Configurations.remember(state.configurations, args)}}
  end

  @impl true
  def handle_cast({:open, request, avoid}, %{status: :ready, program: %{port: port}} = state)
      when avoid == {self(), port} do
    # The program itself said that it takes nothing new.
    handle_cast({:open, request, nil}, leave(state))
  end

  def handle_cast({:open, request, _avoid}, %{status: :ready} = state) do
    unless request.pooled, do: opened(request, self(), state.program.port)
    {:noreply, begin(state, request)}
  end

  def handle_cast({:open, request, _avoid}, %{status: :stopping} = state) do
    {:noreply, refuse(state, request, {:failed, closed()})}
  end

  def handle_cast({:open, %{pooled: true} = request, _avoid}, state) do
    {:noreply, state |> send_back(request) |> release(request)}
  end

  def handle_cast({:open, request, _avoid}, state) do
    {:noreply, %{state | waiting: Waiting.put(state.waiting, request)}}
  end

  def handle_cast({:credit, ref, n}, state), do: {:noreply, control(state, ref, "credit", ~s(,"n":#{n}))}

  def handle_cast({:tool_result, _ref, _call_id, _answer}, %{program: nil} = state), do: {:noreply, state}

  def handle_cast({:tool_result, ref, call_id, answer}, state) do
    answer = if byte_size(answer) + @around > state.output.limit, do: too_long(state), else: answer
    {:noreply, control(state, ref, "tool_result", [call_id, answer])}
  end

  # A program of a pool that let a request's time go by is no longer chosen.
  def handle_cast({:overdue, ref, port}, %{pool: %{}, program: %{port: port}} = state)
      when is_map_key(state.refs, ref) do
    error = Error.new("worker_died", "The worker was taken for hung and killed.", true)
    {:noreply, down(forget(state, state.refs[ref]), error, true)}
  end

  def handle_cast({:overdue, _ref, _port}, state), do: {:noreply, state}
  def handle_cast({:cancel, ref}, state), do: {:noreply, cancel(state, ref)}

  # A consumer has found that the request is over, which its last line did not look like.
  def handle_cast({:ended, ref}, state), do: {:noreply, forget(state, state.refs[ref])}

  def handle_cast({:violation, port, text}, %{program: %{port: port}} = state) do
    {:noreply, happened({:broken, text}, state)}
  end

  def handle_cast({:violation, _former_port, _text}, state), do: {:noreply, state}
  def handle_cast({:shutdown, grace_ms}, state), do: {:noreply, shut_down(state, grace_ms)}

  @impl true
  def handle_info({port, {:data, data}}, %{program: %{port: port}} = state) do
    {events, output} = Output.feed(state.output, data)
    {:noreply, Enum.reduce(events, %{state | output: output}, &happened/2)}
  end

  def handle_info({port, {:exit_status, status}}, %{program: %{port: port}} = state) do
    {:noreply, down(state, ended(state, status), false)}
  end

  # Writing found nobody who reads.
  def handle_info({:EXIT, port, _reason}, %{program: %{port: port}} = state) do
    {:noreply, down(state, ended(state, nil), true)}
  end

  def handle_info({:EXIT, pid, _reason}, %{program: %{writer: pid}} = state) when is_pid(pid) do
    {:noreply, %{state | program: Program.written(state.program, pid)}}
  end

  def handle_info({{:owner_down, ref}, _monitor, :process, _pid, _reason}, state) do
    {:noreply, cancel(%{state | waiting: elem(Waiting.withdraw(state.waiting, ref), 1)}, ref)}
  end

  def handle_info(
        {{:configured, port}, _self, {:lines, framing, line, last?}},
        %{program: %{port: port}} = state
      ) do
    state = if last?, do: %{state | replaying: state.replaying - 1}, else: state

    state =
      case JSON.decode(hd(Framing.split(framing, line))) do
        {:ok, %{"type" => "error", "code" => "shutting_down"}} ->
          %{state | bye?: true}

        {:ok, %{"type" => "error"} = chunk} ->
          Logger.warning("A configuration could not be repeated for a new worker: #{words(chunk)}")
          state

        _ ->
          state
      end

    {:noreply, if(last? and state.replaying == 0, do: settle(state), else: state)}
  end

  def handle_info({:too_slow, port}, %{status: status, program: %{port: port}} = state)
      when status in [:starting, :configuring] do
    text = "#{name(state)} was not ready within #{ready_timeout(state)} ms."
    {:noreply, down(state, Error.new("start_failed", text, true), true)}
  end

  def handle_info({:kill, port}, %{program: %{port: port}} = state) do
    {:noreply,
     down(state, Error.new("worker_died", "The worker was killed: its grace was over.", true), true)}
  end

  def handle_info(:boot, %{status: :down} = state), do: {:noreply, boot(state)}
  # A former port, a timer of its time.
  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    calm? = reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)
    state |> shut_down(if calm?, do: Keyword.get(state.options, :grace_ms, 5_000), else: 0) |> drain()
  end

  # What still comes is handed on until the program is gone, which `:kill` makes sure of.
  defp drain(%{program: nil}), do: :ok

  defp drain(state) do
    receive do
      {:"$gen_cast", message} -> message |> handle_cast(state) |> elem(1) |> drain()
      {:"$gen_call", from, message} -> message |> handle_call(from, state) |> replied(from) |> drain()
      message -> message |> handle_info(state) |> elem(1) |> drain()
    end
  end

  defp replied({:noreply, state}, _from), do: state

  defp replied({:reply, answer, state}, from) do
    GenServer.reply(from, answer)
    state
  end

  # ---- the program's life -----------------------------------------------------------------------------

  defp boot(state) do
    state = %{state | born: System.monotonic_time(), status: :starting, useful?: false}

    argv =
      Keyword.get(state.options, :argv, ["dspy-bridge", "serve"]) ++ Keyword.get(state.options, :flags, [])

    case Program.open(argv, state.options) do
      {:ok, program} ->
        Process.send_after(self(), {:too_slow, program.port}, ready_timeout(state))
        %{state | program: program, output: Output.new(program.framing, @default_limit)}

      {:error, error} ->
        down(state, error, false)
    end
  end

  defp greeted(%{status: :stopping} = state, _line), do: state

  defp greeted(state, line) do
    case JSON.decode(line) do
      {:ok, %{"type" => "ready", "protocol" => 1} = ready} ->
        state = put_in(state.output.limit, limit(ready))
        settle(%{state | status: :configuring, configured: 0, version: ready["version"]})

      {:ok, %{"type" => "ready", "protocol" => protocol}} ->
        not_ready(state, "#{name(state)} speaks protocol #{inspect(protocol)}, this client 1.")

      _other ->
        beginning = inspect(line, binaries: :as_strings, printable_limit: 80)
        not_ready(state, "#{name(state)} did not begin with a ready line but with #{beginning}.")
    end
  end

  defp limit(%{"limits" => %{"max_line_bytes" => bytes}}) when is_integer(bytes), do: bytes
  defp limit(_ready), do: @default_limit

  defp not_ready(state, text), do: down(state, Error.new("start_failed", text, true), true)

  # Has the program learn what was configured before it; then it is ready. If that was all that it takes, it
  # is about to end without having been so.
  defp settle(%{bye?: true} = state), do: state

  defp settle(state) do
    case news(state) do
      :none ->
        state = %{state | status: :ready, last_error: nil}
        meta = Map.take(about(state), [:worker, :os_pid, :version])
        Telemetry.tell(state.handler, [:worker, :ready], %{duration: age(state)}, meta)
        for from <- state.awaiting, do: GenServer.reply(from, :ok)
        waiting = Waiting.take(state.waiting)
        for request <- waiting, do: opened(request, self(), state.program.port)
        Enum.reduce(waiting, %{state | waiting: [], awaiting: []}, &begin(&2, &1))

      {settings, configured} ->
        ref = {:configured, state.program.port}
        state = %{state | replaying: length(settings), configured: configured}

        Enum.reduce(settings, state, fn args, state ->
          body = Request.body(%{"command" => "configure", "args" => args.()})
          begin(state, %{ref: ref, to: self(), owner: nil, body: body, pooled: false})
        end)
    end
  end

  # What this program has not been told, and what to count as told then.
  defp news(%{pool: nil} = state), do: Configurations.since(state.configurations, state.configured)

  defp news(state) do
    GenServer.call(state.pool.pid, {:ready, state.pool.slot, state.program.port, state.configured})
  end

  # It takes nothing new, but finishes what it has.
  defp leave(%{status: :ready} = state) do
    if state.pool, do: GenServer.cast(state.pool.pid, {:unready, self(), nil})
    %{state | status: :leaving}
  end

  defp leave(state), do: state

  defp ended(state, status) do
    {how, details} =
      cond do
        status == nil -> {"", %{}}
        status > 128 -> {" (signal #{status - 128})", %{"signal" => status - 128}}
        true -> {" (exit code #{status})", %{"exit_code" => status}}
      end

    if state.status in [:starting, :configuring] do
      text = "#{name(state)} ended before it was ready#{how}; if it said why, then on stderr."
      Error.new("start_failed", text, true, details)
    else
      Error.new("worker_died", "The worker ended before it had answered#{how}.", true, details)
    end
  end

  defp down(state, error, kill?) do
    if state.program, do: Program.close(state.program, kill?)

    for {id, route} <- state.routes do
      # What a program has not begun when it says bye it has not read.
      unread? = state.bye? and state.output.expected[id] == 0
      if unread?, do: send_back(state, route), else: send(route.to, {route.ref, self(), {:failed, error}})
      release(state, route)
    end

    recycled? = state.status == :leaving and state.useful? and error.details == %{"exit_code" => 0}
    lived? = System.convert_time_unit(age(state), :native, :millisecond) >= @lived_ms
    restarts = if recycled? or lived?, do: 0, else: state.restarts
    delay = if restarts == 0, do: 0, else: min(100 * 2 ** min(restarts - 1, 7), 10_000)
    stopping? = state.status == :stopping

    unless stopping? do
      Process.send_after(self(), :boot, delay)
      if state.pool, do: GenServer.cast(state.pool.pid, {:unready, self(), error})
      measures = %{duration: age(state), requests: map_size(state.routes), restart_in_ms: delay}
      meta = Map.put(Map.take(about(state), [:worker, :os_pid]), :error, error)
      Telemetry.tell(state.handler, [:worker, :down], measures, meta)
      report(state, error, delay, recycled?)
    end

    failed_start? = error.code == "start_failed"
    if failed_start?, do: for(from <- state.awaiting, do: GenServer.reply(from, {:error, error}))

    %{
      state
      | program: nil,
        status: if(stopping?, do: :stopping, else: :down),
        output: nil,
        bye?: false,
        routes: %{},
        refs: %{},
        awaiting: if(failed_start?, do: [], else: state.awaiting),
        last_error: error,
        restarts: restarts + 1
    }
  end

  # A start that failed is tried again at once before it is news; a recycled program is none.
  defp report(state, error, delay, recycled?) do
    unless recycled? or (error.code == "start_failed" and state.restarts == 0) do
      Logger.warning("#{error.message} It is started again in #{delay} ms.")
    end
  end

  defp shut_down(%{status: :stopping} = state, _grace_ms), do: state

  defp shut_down(state, grace_ms) do
    ready? = state.status in [:ready, :leaving]

    state =
      Enum.reduce(Waiting.take(state.waiting), %{state | waiting: []}, &refuse(&2, &1, {:failed, closed()}))

    state = %{state | status: :stopping}

    cond do
      state.program == nil ->
        state

      ready? ->
        Process.send_after(self(), {:kill, state.program.port}, grace_ms + 1_000)
        write(state, ~s({"command":"shutdown","args":{"mode":"drain","grace_ms":#{grace_ms}}}))

      # Nothing runs that could be finished.
      true ->
        down(state, closed(), true)
    end
  end

  # ---- requests ---------------------------------------------------------------------------------------

  defp begin(%{next_id: id} = state, request) do
    line = [~s({"id":), Integer.to_string(id), ?,, request.body]

    if IO.iodata_length(line) > state.output.limit do
      text = "The request is longer than the worker's limit of #{state.output.limit} bytes."
      refuse(state, request, {:failed, Error.new("line_too_long", text)})
    else
      monitor = request.owner && Waiting.watch(request)
      route = %{ref: request.ref, to: request.to, monitor: monitor, pooled: request.pooled, seq: 0}
      state = %{state | next_id: id + 1, output: Output.expect(state.output, id)}
      state = put_in(state.refs[request.ref], id)
      state = write(put_in(state.routes[id], route), line)
      # If the pipe is broken, this line at least has not been read: its end is about to be told.
      if Program.gone?(state.program), do: state |> send_back(route) |> forget(id), else: state
    end
  end

  # Has the consumer make the request again, of another worker or of the next program.
  defp send_back(state, request) do
    send(request.to, {request.ref, self(), {:again, state.program && state.program.port}})
    state
  end

  defp refuse(state, request, why) do
    send(request.to, {request.ref, self(), why})
    release(state, request)
  end

  defp cancel(state, ref), do: state |> control(ref, "cancel", "") |> forget(state.refs[ref])

  defp control(state, ref, command, args) do
    case state.refs do
      %{^ref => id} -> write(state, ~s({"command":"#{command}","args":{"target":#{id}#{args}}}))
      _ended -> state
    end
  end

  defp forget(state, nil), do: state

  defp forget(state, id) do
    {route, routes} = Map.pop!(state.routes, id)
    output = Output.forget(state.output, id)
    release(%{state | output: output, routes: routes, refs: Map.delete(state.refs, route.ref)}, route)
  end

  # One request less. The pool counts those that it has given to this worker, to choose among its workers.
  defp release(state, request) do
    if request[:monitor], do: Process.demonitor(request.monitor, [:flush])
    if request.pooled, do: :counters.sub(state.pool.counters, state.pool.slot, 1)
    state
  end

  defp write(%{program: nil} = state, _line), do: state
  defp write(state, line), do: %{state | program: Program.write(state.program, line)}

  # ---- output -----------------------------------------------------------------------------------------

  # Whatever ended the program ends what it wrote.
  defp happened(_event, %{program: nil} = state), do: state

  defp happened({:lines, id, lines, last?}, state) do
    route = Map.fetch!(state.routes, id)
    send(route.to, {route.ref, self(), {:lines, state.program.framing, lines, last?}})
    # Those without a monitor are this process's own: configurations that are repeated.
    state = if route.monitor, do: %{state | useful?: true}, else: state
    if last?, do: forget(state, id), else: state
  end

  defp happened({:greeting, line}, state), do: greeted(state, line)
  # Output was lost or torn: nothing that comes from this program can be relied on any more.
  defp happened({:broken, text}, state), do: down(state, Error.new("protocol_error", text), true)
  defp happened({:notice, %{"type" => "bye"}}, state), do: leave(%{state | bye?: true})

  defp happened({:notice, %{"type" => "error"} = chunk}, state) do
    Logger.warning("The worker could not read a line: #{words(chunk)}")
    state
  end

  defp happened({:notice, _news}, state), do: state

  defp words(%{"error" => text}) when is_binary(text), do: text
  defp words(chunk), do: inspect(chunk)

  # ---- small things, some of them the pool's too ------------------------------------------------------

  @doc false
  @spec opened(map, pid, port) :: any
  def opened(request, worker, port), do: send(request.ref, {request.ref, worker, {:opened, port}})

  @doc false
  @spec closed() :: Error.t()
  def closed, do: Error.new("closed", "The worker is being stopped.")

  defp too_long(state) do
    ~s(,"error":"The tool's answer is longer than the worker's limit of #{state.output.limit} bytes.")
  end

  defp ready(%{status: :ready} = state), do: [{self(), state.program.port}]
  defp ready(_state), do: []

  defp about(state) do
    %{
      worker: self(),
      os_pid: state.program && state.program.os_pid,
      version: state.version,
      status: state.status,
      requests: map_size(state.routes)
    }
  end

  defp age(state), do: System.monotonic_time() - state.born
  defp ready_timeout(state), do: Keyword.get(state.options, :ready_timeout, 30_000)
  defp name(state), do: hd(Keyword.get(state.options, :argv, ["dspy-bridge"]))
end
