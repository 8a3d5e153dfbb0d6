defmodule DspyBridge.RemoteTest do
  use ExUnit.Case, async: true
  alias DspyBridge.Test.{Node, Workers}
  alias DspyBridge.Error

  # One node has the workers, the other one asks.
  setup do
    port = Node.free_port()
    {near, _} = Node.start(:near, 1, port)
    {far, far_node} = Node.start(:far, 2, port)

    :ok =
      :peer.call(far, Node, :start, [
        [
          {DspyBridge.Pool, [workers: 2] ++ Workers.real()},
          {DspyBridge.Worker, [name: Alone] ++ Workers.real()}
        ]
      ])

    %{near: near, far: far, pool: {DspyBridge.Pool, far_node}, worker: {Alone, far_node}}
  end

  test "pools and workers of another node, with tools of one's own", %{near: near, pool: pool, worker: worker} do
    for server <- [pool, worker] do
      assert {:ok, %{"type" => "pong"}} = :peer.call(near, DspyBridge, :call, ["ping", %{}, [pool: server]])
      assert :peer.call(near, Node, :count, [5_000, [pool: server, credit: 512]]) == 5_001
      assert {:ok, %{"value" => "near@127.0.0.1"}} = :peer.call(near, Node, :ask_where, [[pool: server]])

      assert {:error, %Error{code: "lm_rate_limit"}} =
               :peer.call(near, DspyBridge, :call, ["kit.fail", %{how: "bridge"}, [pool: server]])
    end

    assert [%{status: :ready}, %{}] = :peer.call(near, DspyBridge, :workers, [pool])
  end

  test "a node that goes takes its requests along", %{near: near, far: far, pool: pool, worker: worker} do
    for server <- [pool, worker], do: :started = :peer.call(near, Node, :hold, [[pool: server]])
    assert Enum.sum(requests(far)) == 2
    :peer.cast(near, :erlang, :halt, [])
    Workers.eventually(fn -> Enum.sum(requests(far)) == 0 end)
  end

  defp requests(far) do
    for server <- [DspyBridge.Pool, Alone],
        worker <- :peer.call(far, DspyBridge, :workers, [server]),
        do: worker.requests
  end

  test "the loss of the workers' node is told", %{near: near, far: far, pool: pool, worker: worker} do
    for server <- [pool, worker], do: :started = :peer.call(near, Node, :hold, [[pool: server]])
    :peer.cast(far, :erlang, :halt, [])

    for _ <- 1..2 do
      assert %Error{code: "worker_died", retryable: true, message: message} =
               :peer.call(near, Node, :next_end, [])

      assert message =~ "connection"
    end

    assert {:error, %Error{code: "worker_died"}} =
             :peer.call(near, DspyBridge, :call, ["ping", %{}, [pool: pool]])
  end
end
