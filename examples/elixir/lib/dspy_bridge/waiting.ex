defmodule DspyBridge.Waiting do
  @moduledoc false
  # Requests that wait for a worker to be ready, the last first, each with a monitor of its owner. Who keeps them
  # gets `{{:owner_down, ref}, monitor, :process, pid, reason}` when an owner ends, to withdraw the request.

  @type t :: [{request :: map, monitor :: reference}]

  @spec put(t, map) :: t
  def put(waiting, request), do: [{request, watch(request)} | waiting]

  @doc "A monitor of the request's owner, as waiting ones have it."
  @spec watch(map) :: reference
  def watch(request), do: :erlang.monitor(:process, request.owner, tag: {:owner_down, request.ref})

  @doc "Without the request of that reference, and whether there was one."
  @spec withdraw(t, reference) :: {boolean, t}
  def withdraw(waiting, ref) do
    {withdrawn, others} = Enum.split_with(waiting, fn {request, _monitor} -> request.ref == ref end)
    {take(withdrawn) != [], others}
  end

  @doc "The requests, the first first. They are no longer watched."
  @spec take(t) :: [map]
  def take(waiting) do
    for {_request, monitor} <- waiting, do: Process.demonitor(monitor, [:flush])
    for {request, _monitor} <- Enum.reverse(waiting), do: request
  end
end
