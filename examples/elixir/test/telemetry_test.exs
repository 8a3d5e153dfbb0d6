defmodule DspyBridge.TelemetryTest do
  use ExUnit.Case, async: true
  import DspyBridge.Test.Workers
  alias DspyBridge.{Error, Tool}

  test "events of workers, requests and tools" do
    worker = worker([telemetry: events()] ++ real())

    assert_receive {[:worker, :ready], %{duration: duration},
                    %{worker: ^worker, os_pid: os_pid, version: "0" <> _}}

    assert duration > 0
    options = [pool: worker, telemetry: events()]

    {:ok, _} = DspyBridge.call("kit.count", %{n: 4}, options)
    assert_received {[:request, :start], %{system_time: _}, %{ref: ref, command: "kit.count"}}

    assert_received {[:request, :stop], %{duration: _, chunks: 5},
                     %{ref: ^ref, command: "kit.count", type: "complete"}}

    [_] = Enum.take(DspyBridge.stream("kit.flood", %{}, options), 1)
    assert_received {[:request, :stop], %{chunks: _}, %{command: "kit.flood", type: nil}}

    {:error, error} = DspyBridge.call("kit.fail", %{after: 2}, options)
    assert_received {[:request, :exception], %{duration: _, chunks: 2}, %{command: "kit.fail", error: ^error}}
    refute_received {[:request, :stop], _, %{command: "kit.fail"}}

    tools = [Tool.new("good", "", %{}, fn _ -> 1 end), Tool.new("bad", "", %{}, fn _ -> raise "no" end)]
    for name <- ["good", "bad"], do: DspyBridge.call("kit.tool", %{name: name}, [tools: tools] ++ options)
    assert_receive {[:tool, :stop], %{duration: _}, %{name: "good", error: nil, ref: _}}
    assert_receive {[:tool, :stop], %{duration: _}, %{name: "bad", error: "no"}}

    kill(os_pid)

    assert_receive {[:worker, :down], %{duration: _, requests: 0, restart_in_ms: 0},
                    %{os_pid: ^os_pid, error: %Error{}}}

    assert_receive {[:worker, :ready], _, _}, 5_000
  end

  test "what fails before it began is an exception, too" do
    {:error, error} = DspyBridge.call("ping", %{}, pool: NoPool, telemetry: events())
    assert_received {[:request, :start], _, %{ref: ref}}
    assert_received {[:request, :exception], %{chunks: 0}, %{ref: ^ref, error: ^error}}
  end

  test "a handler that fails changes nothing" do
    worker = worker(real())
    assert {:ok, _} = DspyBridge.call("ping", %{}, pool: worker, telemetry: fn _, _, _ -> raise "no" end)
  end
end
