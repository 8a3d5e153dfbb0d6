# What the examples have in common: a pool of one worker, for the model that MODEL or DSPY_BRIDGE_MODEL names
# or, without one, for canned answers from a script.
Code.require_file("load.exs", __DIR__)
# UTF-8, whatever the locale.
:io.setopts(:standard_io, encoding: :unicode)

defmodule Example do
  @examples Path.expand("..", __DIR__)

  def path(name), do: Path.join(@examples, name)

  # Ends the program if the worker can not start.
  def start_worker(script) do
    model = System.get_env("MODEL") || System.get_env("DSPY_BRIDGE_MODEL")
    base = System.get_env("API_BASE")

    flags =
      if model,
        do: ["--model", model] ++ if(base, do: ["--api-base", base], else: []),
        else: ["--model", "scripted", "--script", path(script)]

    python = System.get_env("PYTHON", "python3")

    case DspyBridge.start_link(argv: [python, "-m", "bridge", "serve"], flags: flags) do
      {:ok, _pool} -> :ok
      {:error, error} -> fail("The worker ended before it had answered: #{error.message}")
    end
  end

  def fail(text) do
    IO.puts(:stderr, text)
    System.halt(1)
  end
end
