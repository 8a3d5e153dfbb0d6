# A DSPy batch from Elixir through a port: elixir examples/elixir/quickstart.exs
# JSON by the built-in module of Elixir 1.18, else by Debian's erlang-jiffy.
defmodule Codec do
  if Code.ensure_loaded?(JSON) do
    def encode(term), do: JSON.encode!(term)
    def decode(line), do: JSON.decode!(line)
  else
    def encode(term), do: :jiffy.encode(term, [:use_nil])
    def decode(line), do: :jiffy.decode(line, [:return_maps, :use_nil])
  end
end

defmodule Quickstart do
  def run do
    examples = Path.expand("..", __DIR__)
    items = for line <- File.stream!(Path.join(examples, "quickstart.jsonl")), do: Codec.decode(line)

    # For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
    flags = ["--model", "scripted", "--script", Path.join(examples, "quickstart.script.jsonl")]
    python = System.find_executable(System.get_env("PYTHON", "python3")) || fail("There is no Python.")
    Process.flag(:trap_exit, true)
    options = [:binary, :exit_status, {:line, 65_536}, args: ["-m", "bridge", "serve" | flags]]
    port = Port.open({:spawn_executable, python}, options)

    args = %{"signature" => "text -> completion", "items" => items}
    request = %{"id" => "r1", "command" => "stream_predict_batch", "args" => args}
    send(port, {self(), {:command, [Codec.encode(request), "\n"]}})
    loop(port, [])
  end

  # A line longer than 65,536 bytes comes in parts.
  defp loop(port, parts) do
    receive do
      {^port, {:data, {:noeol, part}}} -> loop(port, [parts, part])
      {^port, {:data, {:eol, rest}}} -> [parts, rest] |> IO.iodata_to_binary() |> Codec.decode() |> handle(port)
      {^port, {:exit_status, _}} -> fail("The worker ended before it had answered.")
      {:EXIT, ^port, _} -> fail("The worker ended before it had answered.")
    end
  end

  defp handle(%{"type" => "prediction"} = chunk, port) do
    IO.puts("[#{chunk["index"] + 1}/#{chunk["total"]}] #{chunk["output"]["completion"]}")
    loop(port, [])
  end

  defp handle(%{"done" => true} = chunk, port) do
    IO.puts("#{chunk["type"]}: #{chunk["succeeded"] || 0} succeeded")
    Port.close(port)
  end

  defp handle(_chunk, port), do: loop(port, [])

  defp fail(text) do
    IO.puts(:stderr, text)
    System.halt(1)
  end
end

Quickstart.run()
