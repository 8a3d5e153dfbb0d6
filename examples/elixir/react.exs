# An agent whose tool is a function of this program: elixir examples/elixir/react.exs
# For real answers: MODEL=openai/gpt-4o-mini, and OPENAI_API_KEY in the environment.
Code.require_file("worker.exs", __DIR__)
Example.start_worker("streaming.script.jsonl")

population =
  DspyBridge.Tool.new("population", "Inhabitants of a country.", %{country: %{type: "string"}}, fn
    %{"country" => "France"} -> 68_000_000
    %{"country" => "Spain"} -> 49_000_000
    %{"country" => country} -> {:error, "No country is called #{country}."}
  end)

callback = fn
  {:thought, step, content} -> IO.puts("#{step}. #{content}")
  {:observation, _step, name, content} -> IO.puts("   #{name}: #{content}")
  {:tool_error, _step, name, text} -> IO.puts("   #{name} failed: #{text}")
  {:final_answer, answer, _chunk} -> IO.puts(answer)
  _event -> :ok
end

inputs = %{question: "Do more people live in France or in Spain?"}

with {:error, error} <- DSPex.Modules.ReAct.stream("question -> answer", inputs, [population], callback) do
  Example.fail("error: #{error.message}")
end
