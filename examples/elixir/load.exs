# The client for scripts, without mix: Code.require_file("load.exs", __DIR__)
unless Code.ensure_loaded?(DspyBridge) do
  files = Path.wildcard(Path.join(__DIR__, "lib/**/*.ex"))
  {:ok, _modules, _warnings} = Kernel.ParallelCompiler.compile(files)
end
