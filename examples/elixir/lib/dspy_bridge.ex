defmodule DspyBridge do
  @moduledoc """
  DSPy from Elixir: requests to workers, and the streams that answer them.

      {:ok, _pool} = DspyBridge.start_link(flags: ["--model", "openai/gpt-4o-mini"])

      DspyBridge.stream("stream_predict_batch", %{signature: "text -> completion", items: items})
      |> Enum.each(&IO.inspect/1)

  In an application `DspyBridge.Pool` stands in the supervision tree instead. `DSPex` has the same as
  functions with callbacks.

  ## Requests

  `stream/3` and `call/3` take a command's name, its args (a map or keyword list; the worker's `describe`
  lists them) and options:

    * `:pool` - the pool or worker: a pid, a name, or `{name, node}` (default `DspyBridge.Pool`)
    * `:timeout` - milliseconds for the whole request (default `:infinity`)
    * `:credit` - how many chunks may be on their way, and so in this process's mailbox (default 64). Small
      chunks are faster with more, such as 512; chunks of a megabyte want few
    * `:tools` - functions that the worker may call: see `DspyBridge.Tool`; also names of its own tools
    * `:retries` - how often the request is made again if its worker dies before the first chunk (default 0)
    * `:traceparent` - W3C trace context, handed on to the worker
    * `:telemetry` - see `DspyBridge.Telemetry`

  A request that a worker would not take, since it recycles itself, goes to another. While no worker is ready
  it waits, for its `:timeout` or 30 seconds. A worker of a pool that does not end a request 2 seconds after its
  `:timeout` is taken for hung: it is killed and replaced. A wrong option raises `ArgumentError`.

  Chunks are maps with string keys: `%{"type" => "prediction", "index" => 0, …}`. Failures are of type
  `DspyBridge.Error`. An `error` chunk in the midst of a stream is an item's, and one of its elements.

  ## Processes and nodes

  All of a request's state is in the process that makes it and on its node, tools included; the worker's
  process decodes nothing. When the consumer ends, or its node, the worker cancels the request. When a worker
  ends, or its node, the consumer is told.
  """

  alias DspyBridge.{Error, Pool, Request}

  @type server :: GenServer.server()
  @type chunk :: %{String.t() => term}

  @doc """
  Starts a pool and waits until its workers are ready: for scripts. Options are those of `DspyBridge.Pool`.
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, Error.t() | term}
  def start_link(options \\ []) do
    with {:ok, pool} <- Pool.start_link(options) do
      case await_ready(pool, :infinity) do
        :ok ->
          {:ok, pool}

        {:error, error} ->
          stop(pool, 0)
          {:error, error}
      end
    end
  end

  @doc """
  The chunks that answer a request, as a lazy `Stream`: the request is made when it is consumed, anew each time.

  It ends after the chunk that has `"done" => true`. Taking no more (`Enum.take/2`, an exception, the
  consumer's end) cancels the request at once. Raises `DspyBridge.Error` when the request fails, after all
  chunks that came before.
  """
  @spec stream(String.t(), Enumerable.t(), keyword) :: Enumerable.t()
  def stream(command, args \\ %{}, options \\ []) do
    Stream.resource(fn -> Request.open(command, args, options) end, &Request.next/1, &Request.close/1)
  end

  @doc "The last chunk that answers a request, which is all there is for commands with one answer."
  @spec call(String.t(), Enumerable.t(), keyword) :: {:ok, chunk} | {:error, Error.t()}
  def call(command, args \\ %{}, options \\ [])
  def call("configure", args, options), do: configure(args, options)
  def call(command, args, options), do: request(command, args, options)

  @doc "As `call/3`, but gives the chunk alone and raises the error."
  @spec call!(String.t(), Enumerable.t(), keyword) :: chunk
  def call!(command, args \\ %{}, options \\ []) do
    case call(command, args, options) do
      {:ok, chunk} -> chunk
      {:error, error} -> raise error
    end
  end

  @doc """
  Names a language model for later requests, in all workers of a pool and in those that will replace them.
  Args are those of the command: `%{lm: %{model: "openai/gpt-4o-mini", temperature: 0}, name: "cold"}`. The
  `:timeout`, if left out, is 30 seconds.
  """
  @spec configure(Enumerable.t(), keyword) :: {:ok, chunk} | {:error, Error.t()}
  def configure(args, options \\ []) do
    server = server(options)
    options = Keyword.put_new(options, :timeout, 30_000)
    ask = fn {worker, _port} -> request("configure", args, Keyword.put(options, :pool, worker)) end

    with {:ok, ready} <- tell(server, :ready),
         {:ok, chunk} <- first_good(ask, if(ready == [], do: [{server, nil}], else: ready)),
         {:ok, ready_now} <- tell(server, {:remember, Request.named(args)}) do
      # Programs that became ready meanwhile; any later one learns of it before it is ready.
      first_good(ask, ready_now -- ready)
      {:ok, chunk}
    end
  end

  defp first_good(ask, workers) do
    answers = Task.async_stream(workers, ask, max_concurrency: 64, timeout: :infinity)
    answers = for {:ok, answer} <- answers, do: answer
    Enum.find(answers, List.first(answers), &match?({:ok, _}, &1))
  end

  defp tell(server, message) do
    {:ok, GenServer.call(server, message)}
  catch
    :exit, _reason -> {:error, Request.absent(server)}
  end

  defp request(command, args, options) do
    {:ok, command |> stream(args, options) |> Enum.reduce(nil, fn chunk, _earlier -> chunk end)}
  rescue
    error in Error -> {:error, error}
  end

  @doc """
  Waits until the workers are ready; the error of one that can not start, or of code `"start_failed"` when the
  milliseconds are over. They go on trying.
  """
  @spec await_ready(server, timeout) :: :ok | {:error, Error.t()}
  def await_ready(server \\ Pool, timeout \\ 30_000) do
    GenServer.call(server, :await_ready, timeout)
  catch
    :exit, {:timeout, _call} ->
      {:error, Error.new("start_failed", "The workers were not ready within #{timeout} ms.", true)}

    :exit, _reason ->
      {:error, Error.new("closed", "There is no worker or pool #{inspect(server)}.")}
  end

  @doc """
  The workers of a pool, or the one: `:worker` (its process), `:os_pid` and `:version` of its program (nil while
  there is none), `:requests` in flight, and `:status`: `:ready`, `:leaving` (it takes nothing new), `:stopping`,
  or `:down`, `:starting` and `:configuring` before it is ready.
  """
  @spec workers(server) :: [map]
  def workers(server \\ Pool) do
    for worker <- GenServer.call(server, :workers), do: GenServer.call(worker, :about)
  end

  @doc """
  Ends a pool or worker that no supervisor has: takes nothing new, gives what runs `grace_ms` to finish,
  and returns when the programs are gone.
  """
  @spec stop(server, non_neg_integer) :: :ok
  def stop(server \\ Pool, grace_ms \\ 5_000) do
    GenServer.cast(server, {:shutdown, grace_ms})
    GenServer.stop(server, :normal, :infinity)
  end

  defp server(options), do: Keyword.get(options, :pool, Pool)
end
