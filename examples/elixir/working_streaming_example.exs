# A batch through the DSPex modules: elixir examples/elixir/working_streaming_example.exs
# For real answers: MODEL=openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
Code.require_file("worker.exs", __DIR__)
Example.start_worker("quickstart.script.jsonl")

items = for line <- File.stream!(Example.path("quickstart.jsonl")), do: DspyBridge.JSON.decode!(line)
total = length(items)

IO.puts("Starting streaming predictions...")

callback = fn
  {:prediction, index, output, progress} ->
    IO.puts("[#{index + 1}/#{total}] Completed: #{output["completion"]}")
    IO.puts("Progress: #{round(progress * 100)}%")

  {:error, index, error} ->
    IO.puts("[#{index + 1}/#{total}] Error: #{error.message}")

  {:complete, total} ->
    IO.puts("✅ Streaming complete! Processed #{total} items.")

  {:chunk, _chunk} ->
    :ok
end

with {:error, error} <- DSPex.Modules.Predict.stream_batch("text -> completion", items, callback) do
  Example.fail("The batch failed: #{error.message}")
end
