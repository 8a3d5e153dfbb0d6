import { disposable } from "./dispose.js";
import { withDefaults } from "./options.js";
import { Request } from "./request.js";
import { ChunkStream, lastOf } from "./stream.js";
import { Worker } from "./worker.js";

/** One worker and the requests to it; see `index.d.ts`. */
export class Client {
  #worker;

  static async start(options = {}) {
    const client = new Client(withDefaults(options));
    client.info = await client.#worker.ready;
    return client;
  }

  constructor(options) {
    this.#worker = new Worker(options);
  }

  get pid() {
    return this.#worker.ended ? undefined : this.#worker.pid;
  }

  stream(command, args, options) {
    const request = new Request(command, args, options);
    this.#worker.send(request);
    return new ChunkStream(request);
  }

  async call(command, args, options) {
    return lastOf(this.stream(command, args, options));
  }

  close(options) {
    return this.#worker.stop(options);
  }
}

disposable(Client, "close");
