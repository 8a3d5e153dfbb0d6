defmodule DspyBridge.Test.Node do
  @moduledoc false
  # Other nodes for the tests, and what they are asked to do there. No epmd: every node listens on the same
  # port, at an address of its own.

  alias DspyBridge.Tool

  def free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)
    port
  end

  @doc "Starts `name@127.0.0.last`; it ends with this process."
  def start(name, last, port) do
    listening = ~w(-start_epmd false -erl_epmd_port #{port} -kernel inet_dist_use_interface {127,0,0,#{last}})
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])

    {:ok, peer, node} =
      :peer.start_link(%{
        name: name,
        host: ~c"127.0.0.#{last}",
        longnames: true,
        connection: :standard_io,
        args: Enum.map(["-setcookie", "test"] ++ listening ++ paths, &to_charlist/1)
      })

    {:ok, _} = :peer.call(peer, :application, :ensure_all_started, [:logger])
    {peer, node}
  end

  # ---- on the node ------------------------------------------------------------------------------------

  @doc "Starts children that outlive the call, and waits until they are ready."
  def start(children) do
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    Process.unlink(supervisor)
    for {_, server, _, _} <- Supervisor.which_children(supervisor), do: :ok = DspyBridge.await_ready(server)
    :ok
  end

  def count(n, options), do: Enum.count(DspyBridge.stream("kit.count", [n: n], options))

  @doc "Has the worker call a tool that says on which node it runs."
  def ask_where(options) do
    tool = Tool.new("where", "This node.", %{}, fn _args -> to_string(node()) end)
    DspyBridge.call("kit.tool", %{name: "where"}, [tools: [tool]] ++ options)
  end

  @doc "Leaves a consumer behind whose request is running; `next_end/0` tells how it ended."
  def hold(options) do
    caller = self()

    spawn(fn ->
      stream = DspyBridge.stream("kit.hold", %{}, options)

      try do
        Enum.each(stream, fn %{"type" => "started"} -> send(caller, :started) end)
      rescue
        error -> receive(do: ({:next_end, asker} -> send(asker, {:ended, error})))
      end
    end)
    |> register()

    receive(do: (:started -> :started))
  end

  # Consumers stand in a list that belongs to the node.
  defp register(pid), do: :persistent_term.put(__MODULE__, [pid | :persistent_term.get(__MODULE__, [])])

  def next_end do
    [pid | others] = :persistent_term.get(__MODULE__)
    :persistent_term.put(__MODULE__, others)
    send(pid, {:next_end, self()})
    receive(do: ({:ended, error} -> error))
  end
end
