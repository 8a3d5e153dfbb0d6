defmodule DspyBridge.PoolTest do
  use ExUnit.Case, async: true
  import DspyBridge.Test.Workers
  alias DspyBridge.{Error, Pool}

  defp where(pool, pause_ms \\ 0) do
    {:ok, chunk} = DspyBridge.call("kit.where", %{pause_ms: pause_ms}, pool: pool)
    chunk["pid"]
  end

  test "requests go to the worker that has the fewest" do
    pool = pool([workers: 3] ++ real())
    answers = Task.async_stream(1..12, fn _ -> where(pool, 300) end, max_concurrency: 12)
    pids = for {:ok, pid} <- answers, do: pid
    assert pids |> Enum.frequencies() |> Map.values() == [4, 4, 4]
    assert Enum.sort(Enum.uniq(pids)) == Enum.sort(os_pids(pool))
    # All of them are counted off again, those that were cancelled, too.
    for _ <- 1..5, do: Enum.take(DspyBridge.stream("kit.hold", %{}, pool: pool), 1)

    assert length(Enum.uniq(for {:ok, pid} <- Task.async_stream(1..3, fn _ -> where(pool, 200) end), do: pid)) >=
             2

    for worker <- DspyBridge.workers(pool), do: assert(%{status: :ready, requests: 0} = worker)
  end

  test "it stands in a supervision tree, under its name" do
    {:ok, supervisor} = Supervisor.start_link([{Pool, [workers: 2] ++ real()}], strategy: :one_for_one)
    assert {:ok, _} = DspyBridge.call("ping")
    assert DspyBridge.await_ready() == :ok
    assert [_, _] = os_pids = os_pids(Pool)
    assert [{Pool, pid, :supervisor, [Pool]}] = Supervisor.which_children(supervisor)
    assert pid == Process.whereis(Pool)
    Supervisor.stop(supervisor)

    refute Enum.any?(os_pids, &alive?/1)
  end

  test "one worker's death leaves the others alone" do
    pool = pool([workers: 2] ++ real())
    test = self()

    for _ <- 1..2 do
      spawn_link(fn ->
        chunks =
          Stream.each(
            DspyBridge.stream("kit.count", %{n: 40, pause_ms: 10}, pool: pool),
            &send(test, &1["n"])
          )

        send(test, try(do: {:all, Enum.count(chunks)}, rescue: (error in Error -> error.code)))
      end)
    end

    for _ <- 1..2, do: assert_receive(0, 5_000)
    kill(hd(os_pids(pool)))
    assert_receive "worker_died", 5_000
    assert_receive {:all, 41}, 5_000
    assert DspyBridge.await_ready(pool) == :ok
  end

  test "a process that fails is replaced, and its consumers are told" do
    pool = pool([workers: 1] ++ real())
    [%{worker: worker, os_pid: os_pid}] = DspyBridge.workers(pool)
    test = self()
    held = Task.async(fn -> hold(pool, test) end)
    assert_receive "started", 5_000
    Process.exit(worker, :kill)
    assert Task.await(held) == "worker_died"
    assert where(pool) != os_pid
    assert [%{requests: 0}] = DspyBridge.workers(pool)

    eventually(fn -> not alive?(os_pid) end)
  end

  defp hold(pool, test) do
    Enum.each(DspyBridge.stream("kit.hold", %{}, pool: pool), &send(test, &1["type"]))
  rescue
    error in Error -> error.code
  end

  test "workers that recycle themselves are no failure to anybody" do
    pool = pool([workers: 2] ++ real(["--max-requests", "10"]))
    assert length(Enum.uniq(for _ <- 1..100, do: where(pool))) >= 8
  end

  test "requests wait while none is ready, and say why when their time is over" do
    {:ok, pool} = Pool.start_link(name: nil, argv: ["/bin/sh", "-c", "sleep 0.05; exit 9"])

    assert {:error, %Error{code: "start_failed", retryable: true} = error} =
             DspyBridge.call("ping", %{}, pool: pool, timeout: 300)

    assert error.message =~ "exit code 9"
    assert error.details == %{"exit_code" => 9}
    assert {:error, %Error{code: "start_failed"}} = DspyBridge.await_ready(pool)

    assert {:error, %Error{code: "start_failed", message: "The workers were" <> _}} =
             DspyBridge.await_ready(pool, 0)
  end

  test "configurations go to all workers and to those that replace them" do
    pool = pool([workers: 2, telemetry: events()] ++ real(scripted("streaming.script.jsonl")))
    lm = %{model: "scripted"}
    assert {:error, %Error{code: "invalid_args"}} = DspyBridge.configure(%{lm: %{model: 5}}, pool: pool)
    assert {:ok, %{"name" => "small"}} = DspyBridge.call("configure", %{lm: lm, name: "small"}, pool: pool)
    assert {:ok, %{"adapter" => "json"}} = DspyBridge.configure([name: "small", adapter: "json"], pool: pool)

    answers = fn ->
      asked = Task.async_stream(1..6, fn _ -> ask(pool) end, max_concurrency: 6, timeout: 30_000)
      for {:ok, answer} <- asked, uniq: true, do: answer
    end

    assert answers.() == [{:ok, "Because air scatters blue light the most."}]
    for pid <- os_pids(pool), do: kill(pid)
    for _ <- 1..2, do: assert_receive({[:worker, :down], _, _}, 5_000)
    assert answers.() == [{:ok, "Because air scatters blue light the most."}]
    # What may hold keys is shown in no log.
    refute inspect(:sys.get_state(pool)) =~ "scripted\""
  end

  defp ask(pool) do
    with {:ok, chunk} <-
           DspyBridge.call("stream_predict", %{question: "Why is the sky blue?", lm: "small"}, pool: pool) do
      {:ok, chunk["output"]["answer"]}
    end
  end

  test "a pool that stops finishes what it has" do
    {:ok, pool} = Pool.start_link([name: nil, workers: 2] ++ real())
    :ok = DspyBridge.await_ready(pool)

    running =
      for _ <- 1..4, do: Task.async(fn -> DspyBridge.call("kit.count", %{n: 5, pause_ms: 50}, pool: pool) end)

    eventually(fn -> Enum.sum(for w <- DspyBridge.workers(pool), do: w.requests) == 4 end)
    assert DspyBridge.stop(pool) == :ok
    for task <- running, do: assert({:ok, %{"type" => "complete"}} = Task.await(task))
    assert {:error, %Error{code: "closed"}} = DspyBridge.call("ping", %{}, pool: pool)
  end

  test "a worker of a pool can be asked itself" do
    pool = pool([workers: 2] ++ real())
    for worker <- DspyBridge.workers(pool), do: assert(where(worker.worker) == worker.os_pid)
  end

  test "a worker that lets a request's time go by is replaced" do
    pool = pool([workers: 1] ++ real())
    [os_pid] = os_pids(pool)
    System.cmd("kill", ["-STOP", to_string(os_pid)])
    other = Task.async(fn -> DspyBridge.call("ping", %{}, pool: pool) end)
    assert {:error, %Error{code: "deadline_exceeded"}} = DspyBridge.call("ping", %{}, pool: pool, timeout: 50)
    assert {:error, %Error{code: "worker_died", retryable: true}} = Task.await(other)
    assert where(pool) != os_pid
    refute alive?(os_pid)
  end

  test "the grace that is asked for holds, whatever the options say" do
    pool = pool([workers: 2, grace_ms: 0] ++ real())
    pause_ms = 6_000
    call = Task.async(fn -> DspyBridge.call("kit.where", %{pause_ms: pause_ms}, pool: pool) end)
    eventually(fn -> Enum.any?(DspyBridge.workers(pool), &(&1.requests == 1)) end)
    assert DspyBridge.stop(pool, 30_000) == :ok
    assert {:ok, %{"type" => "result"}} = Task.await(call)
  end

  test "a worker that its configurations alone wear out is told, and not tried in haste" do
    flags = scripted("quickstart.script.jsonl") ++ ["--max-requests", "1"]
    pool = pool([workers: 1] ++ real(flags))
    # The only request that it takes is the configuration; so the next one never gets to be ready.
    assert {:ok, _} = DspyBridge.configure(%{name: "m", lm: %{model: "scripted"}}, pool: pool)

    assert {:error, %Error{code: "start_failed", retryable: true} = error} =
             DspyBridge.call("ping", %{}, pool: pool, timeout: 3_000)

    assert error.message =~ "exit code 0"
  end

  test "configurations and recycling get along" do
    pool = pool([workers: 2] ++ real(scripted("quickstart.script.jsonl") ++ ["--max-requests", "4"]))

    answers =
      for i <- 1..12 do
        if rem(i, 4) == 0,
          do: DspyBridge.configure(%{name: "m#{i}", lm: %{model: "scripted"}}, pool: pool),
          else: DspyBridge.call("ping", %{}, pool: pool)
      end

    assert Enum.all?(answers, &match?({:ok, _}, &1))
  end

  test "who waits and ends is forgotten" do
    {:ok, pool} = Pool.start_link(name: nil, argv: ["/bin/sh", "-c", "sleep 0.1; exit 9"])
    {:ok, worker} = DspyBridge.Worker.start_link(argv: ["/bin/sh", "-c", "sleep 0.1; exit 9"])

    for server <- [pool, worker] do
      waits = spawn(fn -> DspyBridge.call("ping", %{}, pool: server) end)
      eventually(fn -> length(:sys.get_state(server).waiting) == 1 end)
      Process.exit(waits, :kill)
      eventually(fn -> :sys.get_state(server).waiting == [] end)
    end
  end

  test "wrong options are told where they are made" do
    for {options, words} <- [
          {[argv: "dspy-bridge serve"], "argv"},
          {[argv: []], "argv"},
          {[flags: ["--max-requests", 5]], "flags"},
          {[framing: :packet], "framing"},
          {[env: %{"A" => 1}], "env"},
          {[ready_timeout: "1"], "ready_timeout"},
          {[grace_ms: -1], "grace_ms"},
          {[workers: 0], "workers"},
          {[wokers: 2], "wokers"}
        ] do
      assert_raise ArgumentError, ~r/#{words}/, fn -> Pool.start_link([name: nil] ++ options) end
    end

    pool = pool(real())

    for option <- [timeout: 0, timeout: -1, timeout: 1.5, timeout: "1", credit: 0, retries: -1, timout: 1] do
      words = ~r/#{elem(option, 0)}/
      assert_raise ArgumentError, words, fn -> DspyBridge.call("ping", %{}, [option, pool: pool]) end
    end

    assert {:ok, _} = DspyBridge.call("ping", %{}, pool: pool, timeout: :infinity)
  end

  test "no key shows in what logs tell of it" do
    {:ok, pool} =
      Pool.start_link(name: nil, argv: ["/bin/sh", "-c", "sleep 0.1; exit 9"], env: %{"KEY" => "sk-1"})

    [%{worker: worker}] = DspyBridge.workers(pool)
    waits = spawn_link(fn -> DspyBridge.configure(%{lm: %{model: "m", api_key: "sk-2"}}, pool: pool) end)
    eventually(fn -> :sys.get_state(pool).waiting != [] end)
    for server <- [pool, worker], do: refute(inspect(:sys.get_state(server)) =~ "sk-")
    Process.unlink(waits)
  end

  test "a program that started while others were being configured learns of it, too" do
    pool = pool([workers: 2] ++ real(scripted("quickstart.script.jsonl")))
    [%{worker: a, os_pid: killed}, %{worker: b, os_pid: stopped}] = DspyBridge.workers(pool)
    System.cmd("kill", ["-STOP", to_string(stopped)])
    lm = %{lm: %{model: "scripted"}, name: "new"}
    configuring = Task.async(fn -> DspyBridge.configure(lm, pool: pool) end)
    # The one has answered, the other can not yet.
    eventually(fn -> match?([%{requests: 1}], DspyBridge.workers(b)) end)
    args = %{signature: "text -> completion", items: [%{text: "Paris is the capital of"}], lm: "new"}
    eventually(fn -> match?({:ok, _}, DspyBridge.call("stream_predict_batch", args, pool: a)) end)
    kill(killed)
    eventually(fn -> match?([%{status: :ready, os_pid: pid}] when pid != killed, DspyBridge.workers(a)) end)
    System.cmd("kill", ["-CONT", to_string(stopped)])
    assert {:ok, _} = Task.await(configuring)
    assert {:ok, _} = DspyBridge.call("stream_predict_batch", args, pool: a)
  end
end
