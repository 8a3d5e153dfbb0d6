defmodule DSPex.Modules.ChainOfThought do
  @moduledoc "Predictions that are reasoned out, with the reasoning told line by line."

  @doc """
  Calls `callback` while the model reasons and answers:

    * `{:thinking, status}` - `"started"`, `"answering"`
    * `{:reasoning_step, step, content}` - a line of reasoning; `step` counts from 1
    * `{:token, field, delta}` - a piece of an output field, if asked for by `tokens: true`
    * `{:final_answer, answer, chunk}` - the last event; `chunk` has all outputs and the whole reasoning
    * `{:chunk, chunk}` - whatever else; one of type `"restart"` says that what was told so far is void

  Options and results are as in `DSPex.Modules.Predict`.
  """
  @spec stream(String.t() | map, map, (tuple -> any), keyword) :: {:ok, map} | {:error, DspyBridge.Error.t()}
  def stream(signature, inputs, callback, options \\ []) do
    args = %{signature: signature, inputs: inputs}

    DSPex.Callbacks.run("stream_chain_of_thought", args, callback, options, fn
      %{"type" => "thinking"} = chunk -> {:thinking, chunk["status"]}
      %{"type" => "reasoning_step"} = chunk -> {:reasoning_step, chunk["step"], chunk["content"]}
      %{"type" => "token"} = chunk -> {:token, chunk["field"], chunk["delta"]}
      %{"type" => "final_answer"} = chunk -> {:final_answer, chunk["answer"], chunk}
      chunk -> {:chunk, chunk}
    end)
  end
end
