defmodule DspyBridge.Tool do
  @moduledoc """
  A function of this node that the worker may call while it runs a request, such as an agent's tool.

      population =
        DspyBridge.Tool.new("population", "Inhabitants of a country.", %{country: %{type: "string"}}, fn
          %{"country" => "France"} -> 68_000_000
          %{"country" => country} -> {:error, "No country is called \#{country}."}
        end)

      DspyBridge.stream("stream_react_steps", %{question: "…"}, tools: [population])

  The function gets its arguments as a map with string keys and runs in a process of its own, as soon as the
  call has come, several at once. What it returns must be JSON. `{:ok, value}` is the value too;
  `{:error, reason}`, and whatever it raises, throws or exits with, is told to the model as the call's error,
  in words without a stack trace. When the request ends, calls that still run are killed.
  """

  alias DspyBridge.JSON

  @enforce_keys [:name, :run]
  defstruct [:name, :run, :required, desc: "", args: %{}]

  @type t :: %__MODULE__{
          name: String.t(),
          desc: String.t(),
          args: map,
          required: [String.t()] | nil,
          run: (map -> term)
        }

  @doc """
  A tool. `args` has a JSON Schema for each argument; `required: [name]` says which must be given (all that
  have no `default`, if left out).
  """
  @spec new(String.t(), String.t(), map, (map -> term), keyword) :: t
  def new(name, desc, args, run, options \\ []) when is_function(run, 1) do
    %__MODULE__{name: name, desc: desc, args: args, run: run, required: options[:required]}
  end

  @doc false
  # As a request declares it.
  @spec declaration(t | String.t()) :: map | String.t()
  def declaration(%__MODULE__{} = tool) do
    declared = %{"name" => tool.name, "desc" => tool.desc, "args" => tool.args}
    if tool.required, do: Map.put(declared, "required", tool.required), else: declared
  end

  def declaration(name_of_a_workers_tool), do: name_of_a_workers_tool

  @doc false
  # Runs the tool of that name: its value as JSON, or words for what went wrong.
  @spec run(%{String.t() => t}, String.t(), map) :: {:ok, binary} | {:error, String.t()}
  def run(tools, name, args) do
    case tools do
      %{^name => tool} -> tool.run.(args) |> answer()
      _ -> {:error, "The host has no tool called #{name}."}
    end
  catch
    :error, reason -> {:error, Exception.message(Exception.normalize(:error, reason, __STACKTRACE__))}
    :throw, value -> {:error, "The tool threw #{inspect(value)}."}
    :exit, reason -> {:error, "The tool exited: #{inspect(reason)}."}
  end

  defp answer({:ok, value}), do: answer(value)
  defp answer({:error, %{__exception__: true} = error}), do: {:error, Exception.message(error)}
  defp answer({:error, text}) when is_binary(text), do: {:error, text}
  defp answer({:error, reason}), do: {:error, inspect(reason)}

  defp answer(value) do
    with {:error, error} <- JSON.encode(value), do: {:error, "The tool's value: #{error.message}"}
  end

  @doc false
  # What a worker's process is told to answer a call of the request `ref`: with JSON, so that nothing is left for
  # it to encode.
  @spec answer(reference, term, {:ok, binary} | {:error, String.t()}) :: tuple
  def answer(ref, call_id, result) do
    call_id = ~s(,"call_id":#{JSON.encode!(call_id)})

    case result do
      {:ok, json} -> {:tool_result, ref, call_id, ~s(,"value":#{json})}
      {:error, text} -> {:tool_result, ref, call_id, ~s(,"error":#{JSON.encode!(valid(text))})}
    end
  end

  defp valid(text), do: if(String.valid?(text), do: text, else: inspect(text))
end
