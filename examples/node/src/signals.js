/** By signal what to call: it has one listener for all requests, since Node warns of more than ten. */
const watched = new WeakMap();

/** Calls `callback` when `signal`, which is not, is aborted. */
export function onAbort(signal, callback) {
  const callbacks = watched.get(signal);
  if (callbacks) {
    callbacks.add(callback);
  } else {
    watched.set(signal, new Set([callback]));
    signal.addEventListener("abort", tell);
  }
}

export function offAbort(signal, callback) {
  const callbacks = watched.get(signal);
  if (!callbacks?.delete(callback) || callbacks.size > 0) return;
  watched.delete(signal);
  signal.removeEventListener("abort", tell);
}

function tell({ target: signal }) {
  for (const callback of [...(watched.get(signal) ?? [])]) callback();
}
