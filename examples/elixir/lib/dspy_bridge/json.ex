defmodule DspyBridge.JSON do
  @moduledoc """
  JSON, by whatever is there: the `JSON` module of Elixir 1.18, else Jason, else jiffy (Debian's
  `erlang-jiffy`). All behave alike: null is `nil`, objects are maps with string keys, and what fails is a
  `DspyBridge.Error` of code `"parse_error"` (decoding) or `"invalid_args"` (encoding).
  """

  alias DspyBridge.Error

  @compile {:no_warn_undefined, [JSON, Jason, :jiffy]}
  # Decoded texts are copied: else each would keep the whole block alive that it was read in.
  @jiffy_options [:return_maps, :use_nil, :copy_strings]

  @doc "Decodes a text. Values do not refer to it."
  @spec decode(binary) :: {:ok, term} | {:error, Error.t()}
  def decode(text) do
    {:ok, decode(codec(), text)}
  catch
    kind, reason -> {:error, Error.new("parse_error", "That is no JSON: #{words(kind, reason)}")}
  end

  @doc "As `decode/1`, but raises."
  @spec decode!(binary) :: term
  def decode!(text) do
    case decode(text) do
      {:ok, term} -> term
      {:error, error} -> raise error
    end
  end

  defp decode(:jiffy, text), do: :jiffy.decode(text, @jiffy_options)
  defp decode(Jason, text), do: Jason.decode!(text, strings: :copy)
  # Copying the line once is what copies all of its texts.
  defp decode(JSON, text), do: JSON.decode!(:binary.copy(text))

  @doc """
  Encodes maps, lists, strings, numbers, booleans, nil, atoms (as strings), dates and times. Other structs,
  tuples, pids, functions and strings that are not UTF-8 are errors.
  """
  @spec encode(term) :: {:ok, binary} | {:error, Error.t()}
  def encode(term) do
    {:ok, codec() |> encode(plain(term)) |> IO.iodata_to_binary()}
  catch
    kind, reason -> {:error, Error.new("invalid_args", "That can not be JSON: #{words(kind, reason)}")}
  end

  defp encode(:jiffy, term), do: :jiffy.encode(term, [:use_nil])
  defp encode(codec, term), do: codec.encode!(term)

  @doc "As `encode/1`, but raises."
  @spec encode!(term) :: binary
  def encode!(term) do
    case encode(term) do
      {:ok, text} -> text
      {:error, error} -> raise error
    end
  end

  @doc "The codec in use: `JSON`, `Jason` or `:jiffy`."
  @spec codec() :: module
  def codec do
    with nil <- :persistent_term.get(__MODULE__, nil) do
      found = Enum.find([JSON, Jason, :jiffy], &Code.ensure_loaded?/1)
      found || raise "There is no JSON codec. On Debian: apt-get install erlang-jiffy"
      :persistent_term.put(__MODULE__, found)
      found
    end
  end

  # The same terms for every codec; jiffy takes structs for maps and knows no keys but strings and atoms.
  defp plain(%module{} = value) when module in [Date, Time, DateTime, NaiveDateTime], do: to_string(value)
  defp plain(%module{}), do: throw("#{inspect(module)} is a struct; make it a map")
  defp plain(%{} = map), do: Map.new(map, fn {key, value} -> {to_string(key), plain(value)} end)
  defp plain([_ | _] = list), do: Enum.map(list, &plain/1)
  defp plain(value) when is_tuple(value) or is_pid(value), do: throw("#{inspect(value)} has no JSON")
  defp plain(value), do: value

  defp words(:throw, text) when is_binary(text), do: text
  defp words(:error, %{__exception__: true} = error), do: Exception.message(error)
  defp words(_kind, {place, reason}) when is_atom(reason), do: "#{reason} at byte #{inspect(place)}"
  defp words(_kind, reason), do: inspect(reason, limit: 5, printable_limit: 60)
end
