defmodule DSPex.Callbacks do
  @moduledoc false
  # Runs a request and hands each chunk, as an event, to a callback.

  alias DspyBridge.Error

  @request_options [:pool, :timeout, :credit, :retries, :telemetry, :traceparent, :tools]

  @doc """
  Options of the request stay such, all others are arguments of the command. `event` makes of a chunk what the
  callback gets; that may return `:halt` to cancel.
  """
  @spec run(String.t(), map, (term -> any), keyword, (map -> term)) :: {:ok, map} | {:error, Error.t()}
  def run(command, args, callback, options, event) do
    {request_options, more_args} = Keyword.split(options, @request_options)
    args = Map.merge(Map.new(more_args), args)

    last =
      command
      |> DspyBridge.stream(args, request_options)
      |> Enum.reduce_while(nil, fn chunk, _before ->
        halted? = callback.(event.(chunk)) == :halt
        # The last chunk is the end anyway.
        if halted? and chunk["done"] != true, do: {:halt, :halted}, else: {:cont, chunk}
      end)

    case last do
      :halted -> {:error, %Error{code: "cancelled", message: "The callback returned :halt."}}
      chunk -> {:ok, chunk}
    end
  rescue
    error in Error -> {:error, error}
  end
end
