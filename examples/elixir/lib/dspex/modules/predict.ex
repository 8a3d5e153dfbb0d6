defmodule DSPex.Modules.Predict do
  @moduledoc """
  Predictions.

  Options of both functions are those of `DspyBridge.stream/3`; all others are arguments of the command:
  `:module`, `:concurrency`, `:order`, `:max_errors`, `:lm`, `:adapter`, `:config`, …. A callback that returns
  `:halt` cancels the rest; the result then is an error of code `"cancelled"`.
  """

  alias DspyBridge.Error

  @doc """
  Predicts every item of a list, several at a time, and calls `callback` as soon as one is there:

    * `{:prediction, index, output, progress}` - `output` is a map, `progress` the part that is done, up to 1
    * `{:error, index, error}` - the item failed (a `DspyBridge.Error`); the others go on
    * `{:complete, total}` - the last event
    * `{:chunk, chunk}` - whatever else the worker says

  `{:ok, chunk}` has the last chunk, with `"succeeded"`, `"failed"` and `"usage"`; `{:error, error}` means that
  the batch as a whole failed.
  """
  @spec stream_batch(String.t() | map, [map], (tuple -> any), keyword) :: {:ok, map} | {:error, Error.t()}
  def stream_batch(signature, items, callback, options \\ []) do
    args = %{signature: signature, items: items}

    DSPex.Callbacks.run("stream_predict_batch", args, callback, options, fn
      %{"type" => "prediction"} = chunk ->
        {:prediction, chunk["index"], chunk["output"], chunk["progress"]}

      %{"type" => "error", "index" => index} = chunk ->
        {:error, index, Error.from_chunk(chunk)}

      %{"type" => "complete"} = chunk ->
        {:complete, chunk["total"]}

      chunk ->
        {:chunk, chunk}
    end)
  end

  @doc """
  One prediction while the model writes it:

    * `{:token, field, delta}` - a piece of an output field
    * `{:prediction, output, chunk}` - the last event
    * `{:chunk, chunk}` - whatever else; one of type `"restart"` says that the tokens so far are void
  """
  @spec stream(String.t() | map, map, (tuple -> any), keyword) :: {:ok, map} | {:error, Error.t()}
  def stream(signature, inputs, callback, options \\ []) do
    args = %{signature: signature, inputs: inputs}

    DSPex.Callbacks.run("stream_predict", args, callback, options, fn
      %{"type" => "token"} = chunk -> {:token, chunk["field"], chunk["delta"]}
      %{"type" => "prediction"} = chunk -> {:prediction, chunk["output"], chunk}
      chunk -> {:chunk, chunk}
    end)
  end
end
