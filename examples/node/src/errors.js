/** What went wrong, told by the worker or found by the client; `index.d.ts` lists the codes. */
export class BridgeError extends Error {
  constructor(code, message, { retryable = false, retryAfterMs, details, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.details = details;
  }

  get name() {
    return "BridgeError";
  }
}

/** An error of its own for everyone who is told the same. */
export function copyOf(error) {
  return new BridgeError(error.code, error.message, error);
}

/** The error that a terminal chunk stands for, or undefined if the request ended well. */
export function errorOf(chunk) {
  if (chunk.type === "error") {
    return new BridgeError(chunk.code, chunk.error, {
      retryable: chunk.retryable === true,
      retryAfterMs: chunk.retry_after_ms,
      details: chunk.details,
    });
  }
  if (chunk.type === "cancelled") {
    const retryable = chunk.reason === "shutdown";
    return new BridgeError("cancelled", `The request was cancelled (${chunk.reason}).`, { retryable });
  }
  return undefined;
}
