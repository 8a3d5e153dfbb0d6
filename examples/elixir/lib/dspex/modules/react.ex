defmodule DSPex.Modules.ReAct do
  @moduledoc "Agents: a model that calls tools until it can answer."

  @doc """
  Calls `callback` while the agent works:

    * `{:thought, step, content}` - what it means to do; `step` counts from 1
    * `{:tool_call, step, name, args}` - a tool is being called
    * `{:observation, step, name, content}` - what the tool gave
    * `{:tool_error, step, name, text}` - how it failed; the agent goes on
    * `{:token, field, delta}` - a piece of an output field, if asked for by `tokens: true`
    * `{:final_answer, answer, chunk}` - the last event
    * `{:chunk, chunk}` - whatever else; one of type `"restart"` says that the tokens so far are void

  `tools` are functions of this node (`DspyBridge.Tool`) and names of tools that the worker has. Options, such
  as `max_iters: 5`, and results are as in `DSPex.Modules.Predict`.
  """
  @spec stream(String.t() | map, map, [DspyBridge.Tool.t() | String.t()], (tuple -> any), keyword) ::
          {:ok, map} | {:error, DspyBridge.Error.t()}
  def stream(signature, inputs, tools, callback, options \\ []) do
    args = %{signature: signature, inputs: inputs}
    options = Keyword.put(options, :tools, tools)

    DSPex.Callbacks.run("stream_react_steps", args, callback, options, fn
      %{"type" => "thought"} = chunk -> {:thought, chunk["step"], chunk["content"]}
      %{"type" => "tool_call"} = chunk -> {:tool_call, chunk["step"], chunk["name"], chunk["args"]}
      %{"type" => "observation"} = chunk -> {seen(chunk), chunk["step"], chunk["name"], chunk["content"]}
      %{"type" => "token"} = chunk -> {:token, chunk["field"], chunk["delta"]}
      %{"type" => "final_answer"} = chunk -> {:final_answer, chunk["answer"], chunk}
      chunk -> {:chunk, chunk}
    end)
  end

  defp seen(chunk), do: if(chunk["is_error"], do: :tool_error, else: :observation)
end
