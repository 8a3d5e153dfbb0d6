defmodule DspyBridge.Framing do
  @moduledoc false
  # How lines are told apart on the pipes: `:lines`, each ended by LF, or `:packet4`, each behind its length
  # in four bytes. Either way a line takes `overhead/1` bytes more than its JSON.

  @type t :: :lines | :packet4

  @doc "What is written for a line."
  @spec frame(t, iodata) :: iodata
  def frame(:lines, line), do: [line, ?\n]
  def frame(:packet4, line), do: [<<IO.iodata_length(line)::32>>, line]

  @doc "The whole lines of a block, and as the last element the rest that is not whole yet (maybe empty)."
  @spec split(t, binary) :: [binary, ...]
  def split(:lines, block), do: :binary.split(block, "\n", [:global])
  def split(:packet4, block), do: packets(block)

  defp packets(<<size::32, line::binary-size(size), rest::binary>>), do: [line | packets(rest)]
  defp packets(rest), do: [rest]

  @doc "Bytes of a line besides its JSON. With `:lines` they stand behind it, with `:packet4` before."
  @spec overhead(t) :: pos_integer
  def overhead(:lines), do: 1
  def overhead(:packet4), do: 4

  @doc "Whether `held` bytes, of which `head` are the first, and then `data` have a whole line."
  @spec whole?(t, binary, non_neg_integer, binary) :: boolean
  def whole?(:lines, _head, _held, data), do: :binary.match(data, "\n") != :nomatch
  def whole?(:packet4, <<size::32, _::binary>>, held, data), do: held + byte_size(data) >= size + 4
  def whole?(:packet4, _head, _held, _data), do: true

  @doc "How long the line is at least of which `size` bytes are there, `head` being the first."
  @spec at_least(t, binary, non_neg_integer) :: non_neg_integer
  def at_least(:packet4, <<size::32, _::binary>>, _size), do: size
  def at_least(_framing, _head, size), do: size
end
