defmodule DspyBridge.Output do
  @moduledoc false
  # What a worker writes, taken apart without decoding it: chunks are only looked at where they begin
  # (`{"id":7,"seq":0,`) and end (`"done":true}`), and neighbouring ones of a request stay together as one
  # piece of the block they came in. Lines that look otherwise are decoded.

  alias DspyBridge.{Framing, JSON}

  # held: the beginning of a line that is not whole yet: its first piece, all of them, their bytes
  # expected: the `seq` that comes next, by request; events: what came, the last first
  defstruct [:framing, :limit, greeted?: false, held: {"", [], 0}, expected: %{}, events: []]

  @type t :: %__MODULE__{}
  @type event ::
          {:greeting, line :: binary}
          | {:lines, id :: term, lines :: binary, last? :: boolean}
          | {:notice, chunk :: map}
          | {:broken, text :: String.t()}

  @doc "`limit`: the longest line in bytes."
  @spec new(Framing.t(), pos_integer) :: t
  def new(framing, limit), do: %__MODULE__{framing: framing, limit: limit}

  @doc "From now on there may be chunks of the request `id`."
  @spec expect(t, term) :: t
  def expect(output, id), do: put_in(output.expected[id], 0)

  @doc "Chunks of the request `id` are no longer of interest. Its last one does that, too."
  @spec forget(t, term) :: t
  def forget(output, id), do: %{output | expected: Map.delete(output.expected, id)}

  @doc """
  Takes bytes in and gives the events among them: the worker's first line, lines of a request (whole ones, with
  their framing), chunks that belong to none, and as the last event that output was lost or torn.
  """
  @spec feed(t, binary) :: {[event], t}
  def feed(%{held: {head, pieces, size}, framing: framing} = output, data) do
    output =
      if Framing.whole?(framing, head, size, data) do
        block = if size == 0, do: data, else: IO.iodata_to_binary([pieces, data])
        take(Framing.split(framing, block), 0, nil, block, output)
      else
        hold(output, if(size == 0, do: data, else: head), [pieces, data], size + byte_size(data))
      end

    {Enum.reverse(output.events), %{output | events: []}}
  end

  defp hold(output, head, pieces, size) do
    if Framing.at_least(output.framing, head, size) > output.limit do
      broken(output, "A line of the worker is longer than its own limit of #{output.limit} bytes.")
    else
      %{output | held: {head, pieces, size}}
    end
  end

  # `at` is where the first of the lines begins in the block. `run` is what is to go out together so far: its
  # request, the `seq` that comes next, and where it begins.
  defp take([rest], at, run, block, output) do
    output |> close(run, at, block, false) |> hold(rest, rest, byte_size(rest))
  end

  defp take([line | lines], at, run, block, output) do
    next = at + byte_size(line) + Framing.overhead(output.framing)

    case head(line) do
      {id, seq} when run != nil and id == elem(run, 0) and seq == elem(run, 1) ->
        grow(line, lines, next, {id, seq + 1, elem(run, 2)}, block, output)

      {id, seq} when is_map_key(output.expected, id) ->
        output = close(output, run, at, block, false)

        if output.expected[id] == seq,
          do: grow(line, lines, next, {id, seq + 1, at}, block, output),
          else: lost(output, id, seq)

      _odd_or_late ->
        output |> close(run, at, block, false) |> decode(line, lines, at, next, block)
    end
  end

  defp grow(line, lines, next, run, block, output) do
    if last?(line),
      do: take(lines, next, nil, block, close(output, run, next, block, true)),
      else: take(lines, next, run, block, output)
  end

  defp close(output, nil, _to, _block, _last?), do: output

  defp close(output, {id, seq, from}, to, block, last?) do
    output = add(output, {:lines, id, binary_part(block, from, to - from), last?})
    if last?, do: forget(output, id), else: put_in(output.expected[id], seq)
  end

  defp decode(output, line, lines, _at, next, block) when line in ["", "\r"] do
    take(lines, next, nil, block, output)
  end

  defp decode(%{greeted?: false} = output, line, lines, _at, next, block) do
    take(lines, next, nil, block, add(%{output | greeted?: true}, {:greeting, line}))
  end

  defp decode(output, line, lines, at, next, block) do
    case JSON.decode(line) do
      {:ok, %{"id" => nil} = chunk} ->
        take(lines, next, nil, block, add(output, {:notice, chunk}))

      {:ok, %{"id" => id} = chunk} when is_map_key(output.expected, id) ->
        seq = chunk["seq"]

        if output.expected[id] == seq,
          do:
            take(
              lines,
              next,
              nil,
              block,
              close(output, {id, seq + 1, at}, next, block, chunk["done"] == true)
            ),
          else: lost(output, id, seq)

      # Of a request that was given up.
      {:ok, %{}} ->
        take(lines, next, nil, block, output)

      _no_object ->
        beginning = inspect(line, binaries: :as_strings, printable_limit: 80)
        broken(output, "The worker wrote a line that is no JSON object: #{beginning}.")
    end
  end

  defp lost(output, id, seq) do
    wanted = output.expected[id]
    broken(output, "Output was lost: chunk #{inspect(seq)} of a request came when #{wanted} was next.")
  end

  defp broken(output, text), do: add(output, {:broken, text})
  defp add(output, event), do: %{output | events: [event | output.events]}

  @id ~s({"id":)
  @seq ~s(,"seq":)

  # Id and `seq` of a line as workers write it.
  defp head(<<@id, digit, rest::binary>>) when digit in ?0..?9, do: id(rest, digit - ?0)
  defp head(_line), do: :odd

  defp id(<<digit, rest::binary>>, id) when digit in ?0..?9, do: id(rest, id * 10 + digit - ?0)
  defp id(<<@seq, digit, rest::binary>>, id) when digit in ?0..?9, do: seq(rest, id, digit - ?0)
  defp id(_rest, _id), do: :odd

  defp seq(<<digit, rest::binary>>, id, seq) when digit in ?0..?9, do: seq(rest, id, seq * 10 + digit - ?0)
  defp seq(<<?,, _rest::binary>>, id, seq), do: {id, seq}
  defp seq(_rest, _id, _seq), do: :odd

  # With the comma: only so it can not be the end of a longer name.
  @last ~s(,"done":true})

  defp last?(line) do
    before = byte_size(line) - byte_size(@last)
    match?(<<_::binary-size(before), @last>>, line)
  end
end
