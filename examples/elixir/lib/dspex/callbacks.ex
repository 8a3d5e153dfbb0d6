defmodule DSPex.Callbacks do
  @moduledoc false
  # Runs a request and hands each chunk, as an event, to a callback.

  alias DspyBridge.{Error, Options}

  @doc """
  Options of the request stay such, all others are arguments of the command. `event` makes of a chunk what the
  callback gets; that may return `:halt` to cancel.
  """
  @spec run(String.t(), map, (term -> any), keyword, (map -> term)) :: {:ok, map} | {:error, Error.t()}
  def run(command, args, callback, options, event) do
    {request_options, more_args} = Keyword.split(options, Options.request())
    args = Map.merge(Map.new(more_args), args)

    last =
      command
      |> DspyBridge.stream(args, request_options)
      |> Enum.reduce_while(nil, fn chunk, _before ->
        case heard(callback, event.(chunk)) do
          {:failed, _, _} = failed -> {:halt, failed}
          # The last chunk is the end anyway.
          said -> if said == :halt and chunk["done"] != true, do: {:halt, :halted}, else: {:cont, chunk}
        end
      end)

    case last do
      :halted -> {:error, %Error{code: "cancelled", message: "The callback returned :halt."}}
      {:failed, _, _} -> last
      chunk -> {:ok, chunk}
    end
  rescue
    error in Error -> {:error, error}
  else
    # Of a request that the callback made: that is not how this one ended.
    {:failed, error, stacktrace} -> reraise error, stacktrace
    result -> result
  end

  defp heard(callback, event) do
    callback.(event)
  rescue
    error in Error -> {:failed, error, __STACKTRACE__}
  end
end
