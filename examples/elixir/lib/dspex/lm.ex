defmodule DSPex.LM do
  @moduledoc "Language models."

  @doc """
  Has later requests use a model, in all workers of the pool and those that replace them.

      DSPex.LM.configure("gemini/gemini-2.5-flash", api_key: System.fetch_env!("GEMINI_API_KEY"), temperature: 0.2)

  Options: `:name` of the model for requests that say `lm: name` (default `"default"`), `:adapter` (`"chat"`,
  `"json"`, `"xml"`), `:pool` and `:timeout`; all others are the model's own: `:api_key`, `:api_base`,
  `:temperature`, `:max_tokens`, `:timeout_s`, `:num_retries`, `:cache`, ….

  `{:ok, chunk}` says what the name now stands for.
  """
  @spec configure(String.t(), keyword) :: {:ok, map} | {:error, DspyBridge.Error.t()}
  def configure(model, options \\ []) do
    {request_options, options} = Keyword.split(options, [:pool, :timeout])
    {args, lm} = Keyword.split(options, [:name, :adapter])
    args = args |> Map.new() |> Map.put(:lm, Map.put(Map.new(lm), :model, model))
    DspyBridge.configure(args, request_options)
  end
end
