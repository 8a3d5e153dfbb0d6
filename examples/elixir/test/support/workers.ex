defmodule DspyBridge.Test.Workers do
  @moduledoc false
  # Workers for the tests: real ones with the commands of tests/support/commands.py, and shell scripts that
  # play awkward ones.

  @root Path.expand("../../../..", __DIR__)

  @doc "Options of a real worker."
  def real(flags \\ []) do
    python = System.get_env("PYTHON", "python3")

    argv = [
      python,
      "-m",
      "bridge",
      "serve",
      "--commands",
      "tests.support.commands",
      "--log-file",
      "/dev/null"
    ]

    [argv: argv ++ flags, cd: @root]
  end

  @doc "Flags for the model that reads its answers from a file of the examples."
  def scripted(script), do: ["--model", "scripted", "--script", Path.join([@root, "examples", script])]

  @doc "Options of a worker that is a shell script, run after the ready line."
  def played(script) do
    ready = ~s(echo '{"id":null,"type":"ready","protocol":1}')
    [argv: ["/bin/sh", "-c", "exec 2>/dev/null; #{ready}; #{script}"]]
  end

  @doc "A pool that ends with the test, once it is ready."
  def pool(options), do: ready(DspyBridge.Pool.start_link([name: nil] ++ options))

  @doc "A worker without a pool, the same way."
  def worker(options), do: ready(DspyBridge.Worker.start_link(options))

  defp ready({:ok, server}) do
    :ok = DspyBridge.await_ready(server)
    server
  end

  @doc "Kills the program of a worker as nothing but SIGKILL does."
  def kill(os_pid), do: {_, 0} = System.cmd("kill", ["-KILL", to_string(os_pid)])

  @doc "Whether there is such a process."
  def alive?(os_pid) do
    match?({_, 0}, System.cmd("kill", ["-0", to_string(os_pid)], stderr_to_stdout: true))
  end

  def os_pids(server), do: for(worker <- DspyBridge.workers(server), do: worker.os_pid)

  @doc "A telemetry handler that sends events to this process as `{event, measurements, metadata}`."
  def events do
    test = self()
    fn [:dspy_bridge | event], measurements, metadata -> send(test, {event, measurements, metadata}) end
  end

  @doc "Waits for what another process is about to do, and nothing tells of."
  def eventually(condition, tries \\ 300) do
    cond do
      condition.() -> :ok
      tries == 0 -> raise ExUnit.AssertionError, message: "it did not come true"
      true -> Process.sleep(10) && eventually(condition, tries - 1)
    end
  end
end
