defmodule DspyBridge.WorkerTest do
  use ExUnit.Case, async: true
  import DspyBridge.Test.Workers
  alias DspyBridge.{Error, Worker}

  defp failure(options) do
    {:ok, worker} = Worker.start_link(options)
    assert {:error, %Error{code: "start_failed", retryable: true} = error} = DspyBridge.await_ready(worker)
    DspyBridge.stop(worker)
    error
  end

  test "a worker that can not start is told with words that help" do
    assert failure(argv: ["no-such-program"]).message =~ "no program called no-such-program"
    assert failure(argv: ["/bin/sh"], cd: "/no/such/folder").message =~ "/bin/sh"

    assert %{message: "/bin/sh ended before it was ready" <> _, details: %{"exit_code" => 3}} =
             failure(argv: ["/bin/sh", "-c", "exit 3"])

    assert failure(argv: ["/bin/sh", "-c", "echo Hello; read x"]).message =~ ~s("Hello")

    assert failure(argv: ["/bin/sh", "-c", "read x"], ready_timeout: 50).message =~
             "not ready within 50 ms"

    ready = ~s(echo '{"id":null,"type":"ready","protocol":2}'; read x)
    assert failure(argv: ["/bin/sh", "-c", ready]).message =~ "speaks protocol 2"

    assert {:error, %Error{code: "start_failed"}} =
             DspyBridge.start_link(name: nil, argv: ["no-such-program"])
  end

  test "its program gets flags, a folder and variables" do
    script =
      ~s(echo "{\\"id\\":null,\\"type\\":\\"ready\\",\\"protocol\\":1,\\"version\\":\\"$0 $1 $PWD $A $B\\"}"; read x)

    options = [
      argv: ["/bin/sh", "-c", script, "zero"],
      flags: ["one"],
      cd: "/usr",
      env: %{"A" => "é", "B" => nil}
    ]

    assert [%{version: "zero one /usr é ", status: :ready}] = DspyBridge.workers(worker(options))
  end

  test "a program that is killed is told to all, and followed by another" do
    worker = worker(real())
    [os_pid] = os_pids(worker)
    test = self()

    for _ <- 1..20 do
      spawn_link(fn ->
        stream = DspyBridge.stream("kit.hold", %{}, pool: worker)
        error = assert_raise Error, fn -> Enum.each(stream, &send(test, &1["type"])) end
        send(test, error)
      end)
    end

    for _ <- 1..20, do: assert_receive("started", 5_000)
    kill(os_pid)

    for _ <- 1..20 do
      assert_receive %Error{code: "worker_died", retryable: true, details: %{"signal" => 9}}, 5_000
    end

    assert {:ok, %{"type" => "pong"}} = DspyBridge.call("ping", %{}, pool: worker)
    assert [%{os_pid: other, requests: 0}] = DspyBridge.workers(worker)
    assert other != os_pid
  end

  test "retries make a request again that had no chunk yet" do
    worker = worker(real())
    task = Task.async(fn -> DspyBridge.call("kit.echo", %{a: 1}, pool: worker, retries: 1) end)
    # So that the first program has not answered when it is killed.
    [os_pid] = os_pids(worker)
    System.cmd("kill", ["-STOP", to_string(os_pid)])
    again = Task.async(fn -> DspyBridge.call("kit.echo", %{a: 2}, pool: worker, retries: 1) end)
    without = Task.async(fn -> DspyBridge.call("kit.echo", %{a: 3}, pool: worker) end)
    eventually(fn -> match?([%{requests: n}] when n >= 2, DspyBridge.workers(worker)) end)
    kill(os_pid)
    assert {:ok, %{"echo" => %{"a" => 1}}} = Task.await(task)
    assert {:ok, %{"echo" => %{"a" => 2}}} = Task.await(again)
    assert {:error, %Error{code: "worker_died"}} = Task.await(without)
  end

  test "a program that does not read blocks nobody" do
    worker = worker(real())
    [os_pid] = os_pids(worker)
    System.cmd("kill", ["-STOP", to_string(os_pid)])
    text = String.duplicate("x", 300_000)

    calls =
      for i <- 1..5, do: Task.async(fn -> DspyBridge.call("kit.echo", %{i: i, text: text}, pool: worker) end)

    eventually(fn -> match?([%{requests: 5}], DspyBridge.workers(worker)) end)
    System.cmd("kill", ["-CONT", to_string(os_pid)])

    for {call, i} <- Enum.with_index(calls, 1),
        do: assert({:ok, %{"echo" => %{"i" => ^i}}} = Task.await(call))

    assert {:ok, %{"type" => "pong"}} = DspyBridge.call("ping", %{}, pool: worker)
  end

  test "a request without an end is given up by the client itself" do
    worker = worker(played("read a; read b; read c"))

    assert {:error, %Error{code: "deadline_exceeded", retryable: true}} =
             DspyBridge.call("x", %{}, pool: worker, timeout: 10)

    assert [%{requests: 0}] = DspyBridge.workers(worker)
  end

  test "torn, lost and foreign output ends everything that runs" do
    for line <- [
          ~s({"id":1,"seq":2,"n":2}),
          ~s({"id":1,"seq":1,"n":),
          ~s(Traceback),
          ~s({"id":1,"seq":1,"a":"}{"done":true})
        ] do
      test = self()
      worker = worker(played(~s(read a; echo '{"id":1,"seq":0,"n":0}'; read b; echo '#{line}'; read c)))
      [os_pid] = os_pids(worker)
      other = Task.async(fn -> DspyBridge.call("x", %{}, pool: worker, retries: 1) end)
      stream = DspyBridge.stream("x", %{}, pool: worker)

      # One of the two is the request that gets the line; both must be told.
      ended = fn -> Enum.each(stream, &send(test, {:n, &1["n"]})) end
      assert %Error{code: "protocol_error", retryable: false} = assert_raise(Error, ended)
      assert {:error, %Error{code: "protocol_error"}} = Task.await(other)
      eventually(fn -> not alive?(os_pid) end)
    end
  end

  test "half a line at the end is dropped" do
    worker = worker(played(~s(read a; echo '{"id":1,"seq":0,"n":0}'; printf '{"id":1,"se'; exit 4)))
    test = self()
    stream = DspyBridge.stream("x", %{}, pool: worker)
    error = assert_raise Error, fn -> Enum.each(stream, &send(test, {:n, &1["n"]})) end
    assert %{code: "worker_died", details: %{"exit_code" => 4}} = error
    assert_received {:n, 0}
  end

  test "it starts again at once, then ever later" do
    {:ok, _worker} = Worker.start_link(argv: ["/bin/sh", "-c", "exit 1"], telemetry: events())

    for delay <- [0, 100, 200, 400] do
      assert_receive {[:worker, :down], %{restart_in_ms: ^delay, requests: 0},
                      %{error: %{code: "start_failed"}}},
                     5_000
    end
  end

  test "requests wait for a worker until their time is over" do
    {:ok, worker} = Worker.start_link(argv: ["/bin/sh", "-c", "exit 7"])

    assert {:error, %Error{code: "start_failed", retryable: true} = error} =
             DspyBridge.call("ping", %{}, pool: worker, timeout: 150)

    assert error.message =~ "exit code 7"
    {:ok, starting} = Worker.start_link(real())
    assert {:ok, _} = DspyBridge.call("ping", %{}, pool: starting)
  end

  test "stopping lets requests finish, within their grace" do
    {:ok, worker} = Worker.start_link(real())
    finishing = Task.async(fn -> DspyBridge.call("kit.count", %{n: 3, pause_ms: 50}, pool: worker) end)
    holding = Task.async(fn -> DspyBridge.call("kit.hold", %{}, pool: worker) end)
    eventually(fn -> match?([%{requests: 2}], DspyBridge.workers(worker)) end)
    [os_pid] = os_pids(worker)
    assert DspyBridge.stop(worker, 400) == :ok
    assert {:ok, %{"type" => "complete"}} = Task.await(finishing)
    assert {:error, %Error{code: "cancelled", retryable: true}} = Task.await(holding)
    refute alive?(os_pid)
    assert {:error, %Error{code: "closed"}} = DspyBridge.call("ping", %{}, pool: worker)
  end

  test "a program that will not end is killed" do
    {:ok, worker} = Worker.start_link(played("trap '' TERM; while :; do sleep 9 <&- >&-; done"))
    :ok = DspyBridge.await_ready(worker)
    [os_pid] = os_pids(worker)
    assert DspyBridge.stop(worker, 0) == :ok
    eventually(fn -> not alive?(os_pid) end)
  end

  test "a name stands for it" do
    start_supervised!({Worker, [name: NamedWorker] ++ real()})
    assert {:ok, _} = DspyBridge.call("ping", %{}, pool: NamedWorker)
    assert {:ok, _} = DspyBridge.call("ping", %{}, pool: {NamedWorker, node()})
  end

  test "the framing is told to the program, unless its command line does" do
    script = fn packets ->
      ~s(printf '#{packets}{"id":null,"type":"ready","protocol":1,"version":"%s"}' "$*"; read x)
    end

    # Either way a ready line of 69 bytes.
    for {flags, told, size} <- [
          {[], "--framing packet4", "\\0\\0\\0\\105"},
          {["--framing=packet4"], "--framing=packet4", "\\0\\0\\0\\105"}
        ] do
      options = [argv: ["/bin/sh", "-c", script.(size), "sh"], flags: flags, framing: :packet4]
      assert [%{version: ^told}] = DspyBridge.workers(worker(options))
    end

    worker = worker([framing: :packet4] ++ real())
    assert {:ok, %{"type" => "pong"}} = DspyBridge.call("ping", %{}, pool: worker)
  end

  test "while it is being stopped it answers, but takes nothing" do
    {:ok, worker} = Worker.start_link(real())
    holding = Task.async(fn -> DspyBridge.call("kit.hold", %{}, pool: worker) end)
    eventually(fn -> match?([%{requests: 1}], DspyBridge.workers(worker)) end)
    stopping = Task.async(fn -> DspyBridge.stop(worker, 500) end)
    eventually(fn -> match?([%{status: :stopping}], DspyBridge.workers(worker)) end)
    assert {:error, %Error{code: "closed"}} = DspyBridge.configure(%{lm: %{model: "scripted"}}, pool: worker)
    assert {:error, %Error{code: "cancelled"}} = Task.await(holding)
    assert Task.await(stopping) == :ok
  end

  test "a program that leaves as soon as it has come is not started at once for ever" do
    argv = [
      "/bin/sh",
      "-c",
      ~s(echo '{"id":null,"type":"ready","protocol":1}'; echo '{"id":null,"type":"bye"}')
    ]

    {:ok, _worker} = Worker.start_link(argv: argv, telemetry: events())
    for delay <- [0, 100, 200], do: assert_receive({[:worker, :down], %{restart_in_ms: ^delay}, _}, 5_000)
  end

  test "strange words of a program do no harm" do
    lines = ~s(echo '{"id":null,"type":"error","error":{}}'; read a; echo '{"id":1,"seq":0,"a\\"done":true}')
    worker = worker(played(lines <> ~s(; echo '{"id":1,"seq":1,"type":"result","done":true}'; read b)))
    assert {:ok, %{"seq" => 1}} = DspyBridge.call("x", %{}, pool: worker)
  end
end
