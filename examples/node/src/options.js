/** The options of a client or pool, with what is left out filled in. */
export function withDefaults({
  argv = ["dspy-bridge", "serve"],
  flags = [],
  cwd,
  env,
  readyTimeout = 30_000,
  onWarning = (text) => process.emitWarning(text, "BridgeWarning"),
} = {}) {
  return { argv: [...argv, ...flags], cwd, env, readyTimeout, warn: onWarning };
}
