defmodule DspyBridge.Error do
  @moduledoc """
  Why a request failed: what the worker said, or what the client found itself.

    * `code` - one of the protocol's codes, such as `"lm_rate_limit"`, or one of the client's own:
      `"worker_died"`, `"start_failed"`, `"protocol_error"`, `"closed"`, `"deadline_exceeded"`, `"cancelled"`
    * `message` - a sentence for people
    * `retryable` - whether the same request may succeed later
    * `retry_after_ms` - when, if the worker knows; else nil
    * `details` - a map with string keys: `"exit_code"` or `"signal"` of a worker that died, `"path"` of a
      wrong argument, `"provider"` and `"status"` of a language model that refused
  """

  defexception [:code, :message, :retry_after_ms, retryable: false, details: %{}]

  @type t :: %__MODULE__{
          code: String.t(),
          message: String.t(),
          retryable: boolean,
          retry_after_ms: non_neg_integer | nil,
          details: map
        }

  @doc "The error that a chunk of type `error` or `cancelled` tells of."
  @spec from_chunk(map) :: t
  def from_chunk(%{"type" => "cancelled"} = chunk) do
    reason = chunk["reason"]
    message = "The request was cancelled (#{reason})."
    %__MODULE__{code: "cancelled", message: message, retryable: reason == "shutdown"}
  end

  def from_chunk(chunk) do
    %__MODULE__{
      code: chunk["code"] || "internal",
      message: chunk["error"] || "The worker gave no reason.",
      retryable: chunk["retryable"] == true,
      retry_after_ms: chunk["retry_after_ms"],
      details: chunk["details"] || %{}
    }
  end

  @doc false
  @spec new(String.t(), String.t(), boolean, map) :: t
  def new(code, message, retryable \\ false, details \\ %{}) do
    %__MODULE__{code: code, message: message, retryable: retryable, details: details}
  end

  @doc false
  # What a request is told when the process of its worker went down.
  @spec process_down(term) :: t
  def process_down(:noconnection),
    do: new("worker_died", "The connection to the worker's node is gone.", true)

  def process_down(_reason),
    do: new("worker_died", "The worker's process ended before it had answered.", true)
end
