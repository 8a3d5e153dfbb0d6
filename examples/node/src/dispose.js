/** Lets `await using` end what `method` ends, on versions of Node that have a symbol for it. */
export function disposable(type, method) {
  if (!Symbol.asyncDispose) return;
  const value = async function () {
    await this[method]();
  };
  Object.defineProperty(type.prototype, Symbol.asyncDispose, { value, configurable: true, writable: true });
}
