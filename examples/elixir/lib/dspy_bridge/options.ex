defmodule DspyBridge.Options do
  @moduledoc false
  # What callers may ask for. A wrong option is a mistake of the program: it raises where it is made, before it
  # can fail a worker's process again and again.

  @request [:pool, :timeout, :credit, :retries, :tools, :traceparent, :telemetry]
  @worker [:name, :argv, :flags, :framing, :cd, :env, :ready_timeout, :grace_ms, :telemetry]
  # What the protocol counts with, and milliseconds, are at most this.
  @most 2 ** 31

  @doc "The names of a request's options."
  @spec request :: [atom]
  def request, do: @request

  @spec request!(keyword) :: keyword
  def request!(options) do
    options
    |> Keyword.validate!(@request)
    |> check!(:timeout, "milliseconds, at least 1, or :infinity", &(&1 in [nil, :infinity] or count?(&1, 1)))
    |> check!(:credit, "a number of chunks, at least 1", &count?(&1, 1))
    |> check!(:retries, "a number, at least 0", &count?(&1, 0))
    |> check!(:telemetry, "a function of three arguments", &(&1 == nil or is_function(&1, 3)))
  end

  @doc "`more`: names that are allowed besides."
  @spec worker!(keyword, [atom]) :: keyword
  def worker!(options, more) do
    options
    |> Keyword.validate!(@worker ++ more)
    |> check!(:argv, "a program and its arguments, all strings", &(&1 != [] and strings?(&1)))
    |> check!(:flags, "a list of strings", &strings?/1)
    |> check!(:framing, ":lines or :packet4", &(&1 in [:lines, :packet4]))
    |> check!(
      :env,
      "variables and their values, as strings",
      &(&1 == nil or Enum.all?(&1, fn v -> variable?(v) end))
    )
    |> check!(:ready_timeout, "milliseconds, at least 1", &count?(&1, 1))
    |> check!(:grace_ms, "milliseconds", &count?(&1, 0))
    |> check!(:workers, "a number, at least 1", &count?(&1, 1))
    |> check!(:telemetry, "a function of three arguments", &(&1 == nil or is_function(&1, 3)))
  end

  defp check!(options, name, wanted, right?) do
    case Keyword.fetch(options, name) do
      {:ok, value} ->
        if right?.(value),
          do: options,
          else: raise(ArgumentError, "#{name} is #{inspect(value)}, not #{wanted}")

      :error ->
        options
    end
  end

  defp count?(value, least), do: is_integer(value) and value in least..@most
  defp strings?(value), do: is_list(value) and Enum.all?(value, &is_binary/1)

  defp variable?({name, value}),
    do: (is_binary(name) or is_atom(name)) and (is_binary(value) or value in [nil, false])

  defp variable?(_other), do: false
end
