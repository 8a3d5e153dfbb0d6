import { disposable } from "./dispose.js";

/** The chunks of one request, to be taken with `for await`; see `index.d.ts`. */
export class ChunkStream {
  #request;

  constructor(request) {
    this.#request = request;
  }

  next() {
    return this.#request.next();
  }

  return() {
    this.#request.leave();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** The last chunk of a request, which is its result. */
export async function lastOf(stream) {
  let last;
  for await (const chunk of stream) last = chunk;
  return last;
}

disposable(ChunkStream, "return");
