const MAX_TIMER_MS = 2 ** 31 - 1;

/** The options of a client or pool, checked, with what is left out filled in. */
export function withDefaults({
  argv = ["dspy-bridge", "serve"],
  flags = [],
  cwd,
  env,
  readyTimeout = 30_000,
  onWarning = (text) => process.emitWarning(text, "BridgeWarning"),
}) {
  const words = Array.isArray(argv) && Array.isArray(flags) ? [...argv, ...flags] : [];
  if (words.length === 0 || words.some((word) => typeof word !== "string")) {
    throw new TypeError("argv and flags must be arrays of strings.");
  }
  if (env !== undefined && (env === null || typeof env !== "object")) throw new TypeError("env must be an object.");
  if (typeof onWarning !== "function") throw new TypeError("onWarning must be a function.");
  checkInteger("readyTimeout", readyTimeout, 1, MAX_TIMER_MS);
  return { argv: words, cwd, env, readyTimeout, warn: harmless(onWarning) };
}

/** The options of `close`, likewise. */
export function closingWith({ mode = "drain", grace = 30_000 } = {}) {
  if (mode !== "drain" && mode !== "abort") throw new TypeError('mode must be "drain" or "abort".');
  checkInteger("grace", grace, 0, MAX_TIMER_MS);
  return { mode, grace };
}

export function checkInteger(name, value, least, most) {
  if (!(Number.isInteger(value) && value >= least && value <= most)) {
    throw new RangeError(`${name} must be an integer from ${least} to ${most}, not ${String(value)}.`);
  }
}

/** What a callback throws is an uncaught exception, and nothing that its caller would have to survive. */
function harmless(callback) {
  return (text) => {
    try {
      callback(text);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
    }
  };
}
