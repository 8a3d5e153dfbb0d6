defmodule DspyBridge.Telemetry do
  @moduledoc """
  Events in the shape of `:telemetry`, for whoever wants them.

  A handler is a function of an event's name, its measurements and its metadata, such as
  `&:telemetry.execute/3`. It is given as the option `telemetry:` of a request, a worker or a pool, or once
  for all of them:

      config :dspy_bridge, telemetry: &:telemetry.execute/3

  | event | measurements | metadata | told by |
  | --- | --- | --- | --- |
  | `[:dspy_bridge, :worker, :ready]` | `duration` since the program was started | `worker`, `os_pid`, `version` | the worker's process |
  | `[:dspy_bridge, :worker, :down]` | `duration` since the program was started, `requests` that failed with it, `restart_in_ms` | `worker`, `os_pid`, `error` | the worker's process |
  | `[:dspy_bridge, :request, :start]` | `system_time` | `ref`, `command` | the consumer |
  | `[:dspy_bridge, :request, :stop]` | `duration`, `chunks` | `ref`, `command`, `type` of the last chunk, nil if the consumer left | the consumer |
  | `[:dspy_bridge, :request, :exception]` | `duration`, `chunks` | `ref`, `command`, `error` | the consumer |
  | `[:dspy_bridge, :tool, :stop]` | `duration` | `ref`, `name`, `error` (a text, or nil) | the tool's process |

  Durations are in native time units. `ref` is the same in all events of a request, `error` a
  `DspyBridge.Error`. What a handler raises is logged and changes nothing.
  """

  require Logger

  @type handler :: (event :: [atom, ...], measurements :: map, metadata :: map -> any)

  @doc false
  @spec handler(keyword) :: handler | nil
  def handler(options), do: options[:telemetry] || Application.get_env(:dspy_bridge, :telemetry)

  @doc false
  @spec tell(handler | nil, [atom], map, map) :: :ok
  def tell(nil, _event, _measurements, _metadata), do: :ok

  def tell(handler, event, measurements, metadata) do
    handler.([:dspy_bridge | event], measurements, metadata)
    :ok
  catch
    kind, reason -> Logger.error("The telemetry handler failed: #{Exception.format_banner(kind, reason)}")
  end
end
