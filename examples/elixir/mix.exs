defmodule DspyBridge.MixProject do
  use Mix.Project

  def project do
    [
      app: :dspy_bridge,
      version: "0.1.0",
      elixir: "~> 1.14",
      description: "Streams DSPy from Python workers on ports",
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      start_permanent: Mix.env() == :prod,
      deps: []
    ]
  end

  # Where Elixir has no JSON module of its own, the codec is Jason or jiffy: whichever is there.
  def application, do: [extra_applications: [:logger, jiffy: :optional]]
end
