defmodule DspyBridge.Pool do
  @moduledoc """
  Several workers of the same kind behind one name. A request goes to the ready worker that has the fewest.

      children = [{DspyBridge.Pool, workers: 4, flags: ["--model", "openai/gpt-4o-mini"]}]
      Supervisor.start_link(children, strategy: :one_for_one)

      DspyBridge.call("ping")                                          # the pool called DspyBridge.Pool
      DspyBridge.call("ping", %{}, pool: {DspyBridge.Pool, :"ml@host"}) # that of another node

  Options: `:workers` (default 1), `:name` (default `DspyBridge.Pool`; nil for none), and those of
  `DspyBridge.Worker`, which tells how workers start again.

  While none is ready, requests wait for one. `configure` requests go to all workers, and new ones learn of
  them before they count as ready.
  """

  use GenServer
  alias DspyBridge.{Configurations, Options, Waiting, Worker}

  # A worker's process has a slot. known: the processes; ready: those that are, with their ports; counters:
  # requests in flight
  @derive {Inspect, only: [:workers, :ready, :last_error]}
  defstruct [
    :supervisor,
    :counters,
    :workers,
    :grace_ms,
    :last_error,
    known: %{},
    ready: %{},
    waiting: [],
    awaiting: [],
    configurations: %Configurations{}
  ]

  def child_spec(options) do
    id = Keyword.get(options, :name, __MODULE__)
    %{id: id, start: {__MODULE__, :start_link, [options]}, type: :supervisor, shutdown: :infinity}
  end

  @doc "Starts the pool, which then starts its workers: see `DspyBridge.await_ready/2`."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options \\ []) do
    name = Keyword.get(options, :name, __MODULE__)
    Options.worker!(options, [:workers])
    GenServer.start_link(__MODULE__, options, if(name, do: [name: name], else: []))
  end

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    workers = Keyword.get(options, :workers, 1)
    counters = :counters.new(workers, [])

    children =
      for slot <- 1..workers do
        pool = %{pid: self(), counters: counters, slot: slot}
        options = options |> Keyword.drop([:name, :workers]) |> Keyword.put(:pool, pool)
        # It sees to its own end, which `DspyBridge.stop/2` may allow more time than the options do.
        Supervisor.child_spec({Worker, options}, id: slot, shutdown: :infinity)
      end

    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    grace_ms = Keyword.get(options, :grace_ms, 5_000)
    {:ok, %__MODULE__{supervisor: supervisor, counters: counters, workers: workers, grace_ms: grace_ms}}
  end

  @impl true
  def handle_call({:ready, slot, port, configured}, {worker, _tag}, state) do
    with :none <- Configurations.since(state.configurations, configured) do
      state = acquainted(state, slot, worker)
      state = %{state | ready: Map.put(state.ready, slot, {worker, port}), last_error: nil}
      waiting = Waiting.take(state.waiting)
      state = Enum.reduce(waiting, %{state | waiting: []}, &choose(&2, &1))
      {:reply, :none, if(map_size(state.ready) == state.workers, do: tell(state, :ok), else: state)}
    else
      news -> {:reply, news, state}
    end
  end

  def handle_call(:await_ready, _from, %{workers: n, ready: ready} = state) when map_size(ready) == n do
    {:reply, :ok, state}
  end

  def handle_call(:await_ready, from, state), do: {:noreply, %{state | awaiting: [from | state.awaiting]}}

  def handle_call(:workers, _from, state) do
    pids = for {_slot, pid, _, _} <- Supervisor.which_children(state.supervisor), is_pid(pid), do: pid
    {:reply, pids, state}
  end

  def handle_call({:withdraw, ref}, _from, state) do
    {waited?, others} = Waiting.withdraw(state.waiting, ref)
    {:reply, if(waited?, do: {:waited, state.last_error}, else: :gone), %{state | waiting: others}}
  end

  def handle_call(:ready, _from, state), do: {:reply, ready(state), state}

  def handle_call({:remember, args}, _from, state) do
    {:reply, ready(state), %{state | configurations: Configurations.remember(state.configurations, args)}}
  end

  @impl true
  def handle_cast({:open, request, avoid}, state) do
    ready = if avoid, do: without(state.ready, &(&1 == avoid)), else: state.ready
    {:noreply, choose(%{state | ready: ready}, request)}
  end

  def handle_cast({:unready, worker, error}, state) do
    state = %{
      state
      | ready: without(state.ready, &match?({^worker, _}, &1)),
        last_error: error || state.last_error
    }

    failed_start? = error != nil and error.code == "start_failed"
    {:noreply, if(failed_start?, do: tell(state, {:error, error}), else: state)}
  end

  def handle_cast({:shutdown, grace_ms}, state), do: {:noreply, %{state | grace_ms: grace_ms}}

  @impl true
  # A worker's process ended, by a supervisor or by a fault; the next one has no requests.
  def handle_info({:DOWN, _monitor, :process, worker, _reason}, state) do
    for {slot, ^worker} <- state.known, do: :counters.put(state.counters, slot, 0)
    {:noreply, %{state | ready: without(state.ready, &match?({^worker, _}, &1))}}
  end

  # Nobody waits for that request any more.
  def handle_info({{:owner_down, ref}, _monitor, :process, _pid, _reason}, state) do
    {:noreply, %{state | waiting: elem(Waiting.withdraw(state.waiting, ref), 1)}}
  end

  def handle_info({:EXIT, supervisor, reason}, %{supervisor: supervisor} = state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    # All at once, then one after the other to their ends.
    for {_slot, pid, _, _} <- Supervisor.which_children(state.supervisor), is_pid(pid) do
      GenServer.cast(pid, {:shutdown, state.grace_ms})
    end

    Supervisor.stop(state.supervisor, :shutdown)
  catch
    :exit, _the_supervisor_is_gone -> :ok
  end

  defp choose(%{ready: ready} = state, request) when ready == %{} do
    %{state | waiting: Waiting.put(state.waiting, request)}
  end

  defp choose(state, request) do
    {slot, {worker, port}} = Enum.min_by(state.ready, fn {slot, _} -> :counters.get(state.counters, slot) end)
    :counters.add(state.counters, slot, 1)
    GenServer.cast(worker, {:open, %{request | pooled: true}, nil})
    Worker.opened(request, worker, port)
    state
  end

  defp acquainted(%{known: known} = state, slot, worker) do
    if known[slot] != worker, do: Process.monitor(worker)
    %{state | known: Map.put(known, slot, worker)}
  end

  defp ready(state), do: Map.values(state.ready)

  defp without(ready, unwanted?) do
    for {slot, entry} <- ready, not unwanted?.(entry), into: %{}, do: {slot, entry}
  end

  defp tell(state, answer) do
    for from <- state.awaiting, do: GenServer.reply(from, answer)
    %{state | awaiting: []}
  end
end
