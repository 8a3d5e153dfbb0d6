defmodule DspyBridge.Program do
  @moduledoc false
  # The worker's program on a port. The functions are for the port's owner; writing never blocks it: while the
  # pipe is full, another process waits in its place.

  alias DspyBridge.{Error, Framing}

  @enforce_keys [:port, :os_pid, :framing]
  defstruct [:port, :os_pid, :framing, :writer, unsent: []]

  @type t :: %__MODULE__{
          port: port,
          os_pid: pos_integer | nil,
          framing: Framing.t(),
          writer: pid | nil,
          unsent: iodata
        }

  # A framing that is not the usual one is told to the program, unless its command line says one itself.
  defp arguments(args, :lines), do: args

  defp arguments(args, :packet4) do
    told? = Enum.any?(args, &(&1 == "--framing" or String.starts_with?(&1, "--framing=")))
    if told?, do: args, else: args ++ ["--framing", "packet4"]
  end

  @doc "Starts a command line; `options` are those of `DspyBridge.Worker.start_link/1`."
  @spec open([String.t(), ...], keyword) :: {:ok, t} | {:error, Error.t()}
  def open([name | args], options) do
    if path = System.find_executable(name) do
      framing = Keyword.get(options, :framing, :lines)
      args = arguments(args, framing)
      settings = [:binary, :exit_status, :hide, args: args, env: environment(options[:env])]
      settings = if options[:cd], do: [{:cd, options[:cd]} | settings], else: settings
      port = Port.open({:spawn_executable, path}, settings)
      {:ok, %__MODULE__{port: port, os_pid: os_pid(port), framing: framing}}
    else
      {:error, Error.new("start_failed", "There is no program called #{name} here.", true)}
    end
  rescue
    error ->
      {:error, Error.new("start_failed", "#{name} can not be started: #{Exception.message(error)}", true)}
  end

  defp environment(nil), do: []

  defp environment(variables) do
    for {name, value} <- variables, do: {to_charlist(name), if(value, do: to_charlist(value), else: false)}
  end

  defp os_pid(port) do
    case Port.info(port, :os_pid) do
      {:os_pid, os_pid} -> os_pid
      nil -> nil
    end
  end

  @doc "Writes a line. If the program is gone nothing happens: its end is told by the port."
  @spec write(t, iodata) :: t
  def write(%{writer: nil} = program, line) do
    framed = Framing.frame(program.framing, line)
    if Port.command(program.port, framed, [:nosuspend]), do: program, else: start_writer(program, framed)
  rescue
    ArgumentError -> program
  end

  def write(program, line) do
    %{program | unsent: [program.unsent | Framing.frame(program.framing, line)]}
  end

  @doc "Whether the port is closed, as it is at once after writing to a pipe that nobody reads."
  @spec gone?(t) :: boolean
  def gone?(program), do: Port.info(program.port, :connected) == nil

  @doc "To be called when a process that was linked ended: perhaps the one that waited for the pipe."
  @spec written(t, pid) :: t
  def written(%{writer: writer, unsent: []} = program, writer), do: %{program | writer: nil}
  def written(%{writer: writer} = program, writer), do: start_writer(%{program | unsent: []}, program.unsent)
  def written(program, _other), do: program

  defp start_writer(%{port: port} = program, bytes) do
    writer =
      spawn_link(fn ->
        try do
          Port.command(port, bytes)
        rescue
          ArgumentError -> :the_port_is_closed
        end
      end)

    %{program | writer: writer}
  end

  @doc "Closes the port and, if the program may still be there, kills it."
  @spec close(t, boolean) :: :ok
  def close(program, kill?) do
    if kill? and program.os_pid, do: :os.cmd(~c"kill -KILL #{program.os_pid}")
    Port.close(program.port)
    :ok
  rescue
    ArgumentError -> :ok
  end
end
