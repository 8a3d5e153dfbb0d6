# A DSPy batch from Elixir: elixir examples/elixir/quickstart.exs
Code.require_file("load.exs", __DIR__)

examples = Path.expand("..", __DIR__)
items = for line <- File.stream!("#{examples}/quickstart.jsonl"), do: DspyBridge.JSON.decode!(line)

# argv can be left out where dspy-bridge is on the PATH. For real answers:
# flags = ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
argv = [System.get_env("PYTHON", "python3"), "-m", "bridge", "serve"]
flags = ["--model", "scripted", "--script", "#{examples}/quickstart.script.jsonl"]

show = fn
  %{"type" => "prediction"} = chunk ->
    IO.puts("[#{chunk["index"] + 1}/#{chunk["total"]}] #{chunk["output"]["completion"]}")

  %{"type" => "error"} = chunk ->
    IO.puts(:stderr, "error: #{chunk["error"]}")

  chunk ->
    IO.puts("#{chunk["type"]}: #{chunk["succeeded"]} succeeded")
end

with {:ok, _pool} <- DspyBridge.start_link(argv: argv, flags: flags) do
  for chunk <- DspyBridge.stream("stream_predict_batch", signature: "text -> completion", items: items) do
    show.(chunk)
  end
else
  {:error, error} ->
    IO.puts(:stderr, "The worker ended before it had answered: #{error.message}")
    System.halt(1)
end
