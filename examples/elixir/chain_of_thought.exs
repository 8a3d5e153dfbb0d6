# Reasoning, line by line while the model writes it: elixir examples/elixir/chain_of_thought.exs
# For real answers: MODEL=openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
Code.require_file("worker.exs", __DIR__)
Example.start_worker("streaming.script.jsonl")

callback = fn
  {:reasoning_step, step, content} -> IO.puts("#{step}. #{content}")
  {:final_answer, answer, _chunk} -> IO.puts(answer)
  {:chunk, %{"type" => "restart"}} -> IO.puts("(once more)")
  _event -> :ok
end

inputs = %{question: "Why is the sky blue?"}

with {:error, error} <- DSPex.Modules.ChainOfThought.stream("question -> answer", inputs, callback) do
  Example.fail("error: #{error.message}")
end
