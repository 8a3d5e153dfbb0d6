defmodule DspyBridge.Configurations do
  @moduledoc false
  # What was configured, by the language model's name, to be repeated for new programs. Later settings of a
  # name complete or replace earlier ones. They may hold keys: as functions they show in no log or crash.

  defstruct version: 0, settings: %{}

  @type t :: %__MODULE__{version: non_neg_integer, settings: %{String.t() => (() -> map)}}

  @spec remember(t, map) :: t
  def remember(configurations, args) do
    name = to_string(args["name"] || "default")
    former = Map.get(configurations.settings, name, fn -> %{} end)
    merged = Map.merge(former.(), args |> Enum.reject(&match?({_, nil}, &1)) |> Map.new())
    settings = Map.put(configurations.settings, name, fn -> merged end)
    %{configurations | version: configurations.version + 1, settings: settings}
  end

  @doc "For a program that was told up to `version`: functions that give the args to tell, and the version then."
  @spec since(t, non_neg_integer) :: :none | {[(() -> map)], pos_integer}
  def since(%{version: version}, version), do: :none
  def since(configurations, _version), do: {Map.values(configurations.settings), configurations.version}
end
