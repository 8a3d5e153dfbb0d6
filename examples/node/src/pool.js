import { setTimeout as sleep } from "node:timers/promises";

import { Configurations } from "./configurations.js";
import { disposable } from "./dispose.js";
import { withDefaults } from "./options.js";
import { Request } from "./request.js";
import { ChunkStream, lastOf } from "./stream.js";
import { closed, startFailed, Worker } from "./worker.js";

/** Longest wait for a worker to be ready, in milliseconds. */
const PATIENCE_MS = 30_000;
const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 10_000;
/** A worker that was up for so long shows that starting is worth while. */
const PROVEN_MS = 10_000;
/** Codes of a worker that goes or has gone, whatever it was asked. */
const LEFT = new Set(["worker_died", "shutting_down"]);

/** Several workers of one command line behind the methods of a client; see `index.d.ts`. */
export class Pool {
  #options;
  #slots = [];
  #waiting = new Map(); // by request that no worker could take: its timer, and how it goes on
  #configurations = new Configurations();
  #lastReason = null; // why a worker ended
  #closing = null;
  #stop = new AbortController();

  static async start(options = {}) {
    const pool = new Pool(options);
    try {
      await Promise.all(pool.#slots.map((slot) => new Promise((...booted) => pool.#supervise(slot, ...booted))));
    } catch (error) {
      await pool.close({ mode: "abort" });
      throw error;
    }
    return pool;
  }

  constructor({ workers = 2, ...options }) {
    if (!(Number.isInteger(workers) && workers >= 1)) throw new RangeError("workers must be an integer from 1.");
    this.#options = withDefaults(options);
    for (let i = 0; i < workers; i++) this.#slots.push({ worker: null, ready: false });
  }

  get pids() {
    return this.#slots.flatMap(({ worker }) => (worker?.pid === undefined || worker.ended ? [] : [worker.pid]));
  }

  get ready() {
    return this.#open().length;
  }

  stream(command, args, { retries = 0, ...options } = {}) {
    let left = retries;
    const rescue = (error) => {
      if (this.#closing || request.received) return false;
      // A worker that refuses everything, or has said bye, never looked at the request.
      const unread = error.code === "shutting_down" || error.details?.bye !== undefined;
      if (!unread && !(error.code === "worker_died" && left-- > 0)) return false;
      this.#place(request);
      return true;
    };
    const forAll = command === "configure";
    const request = new Request(command, args, options, forAll ? null : rescue);
    if (this.#closing) request.fail(closed());
    else if (forAll) this.#configure(request, args);
    else this.#place(request);
    return new ChunkStream(request);
  }

  async call(command, args, options) {
    return lastOf(this.stream(command, args, options));
  }

  close(options) {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  async #close(options) {
    this.#stop.abort();
    for (const request of [...this.#waiting.keys()]) {
      this.#forget(request);
      request.fail(closed());
    }
    await Promise.all(this.#slots.map(({ worker }) => worker?.stop(options)));
  }

  // ---- requests --------------------------------------------------------------------------------------

  #open() {
    return this.#slots.filter(({ worker, ready }) => ready && worker.open);
  }

  #place(request) {
    const workers = this.#open().map(({ worker }) => worker);
    if (workers.length === 0) {
      this.#wait(request, () => this.#place(request));
    } else {
      workers.reduce((best, worker) => (worker.inFlight < best.inFlight ? worker : best)).send(request);
    }
  }

  #wait(request, goOn) {
    if (request.ended) return;
    request.holder = { forget: () => this.#forget(request) };
    const giveUp = () => {
      this.#forget(request);
      const why = this.#lastReason ? ` ${this.#lastReason.message}` : "";
      request.fail(startFailed(`No worker became ready in time.${why}`, { retryable: true }));
    };
    const timer = setTimeout(giveUp, Math.min(PATIENCE_MS, request.remaining));
    this.#waiting.set(request, { timer, goOn });
  }

  #forget(request) {
    clearTimeout(this.#waiting.get(request)?.timer);
    this.#waiting.delete(request);
  }

  /** Configures every worker: those that are ready now, by replay those that are starting. */
  async #configure(request, args = {}) {
    const workers = this.#open().map(({ worker }) => worker);
    if (workers.length === 0) {
      this.#wait(request, () => this.#configure(request, args));
      return;
    }
    const entry = this.#configurations.add(args);
    const timeout = request.remaining === Infinity ? undefined : request.remaining;
    const results = await Promise.allSettled(workers.map((worker) => configured(worker, args, timeout)));
    const refused = results.find(({ reason }) => reason && !LEFT.has(reason.code));
    const done = results.find(({ status }) => status === "fulfilled");
    if (refused || !done) {
      this.#configurations.remove(entry);
      request.fail((refused ?? results[0]).reason);
    } else {
      this.#configurations.confirm(entry);
      if (!request.ended) request.receive(done.value);
    }
  }

  // ---- workers ---------------------------------------------------------------------------------------

  /** Keeps one worker up until the pool is closed; gives up only if the first can not be started. */
  async #supervise(slot, booted, failed) {
    let up = false;
    let failures = 0; // in a row
    while (!this.#closing) {
      let since = Infinity;
      try {
        slot.worker = new Worker(this.#options);
        await slot.worker.ready;
        await this.#configurations.replay((args) => configured(slot.worker, args));
        since = performance.now();
        slot.ready = up = true;
        booted();
        this.#resume();
        this.#lastReason = await slot.worker.end;
      } catch (error) {
        this.#lastReason = error;
        slot.worker?.fail(error);
        failed(error);
      }
      slot.ready = false;
      if (!up || this.#closing) return;
      if (this.#lastReason.details?.bye !== undefined && slot.worker.served > 0) continue; // it was recycled
      if (performance.now() - since >= PROVEN_MS) failures = 0;
      const delay = failures === 0 ? 0 : Math.min(FIRST_DELAY_MS * 2 ** (failures - 1), MAX_DELAY_MS);
      failures++;
      this.#options.warn(`${this.#lastReason.message} Another one is started in ${delay} ms.`);
      if (delay > 0) await sleep(delay, undefined, { ref: false, signal: this.#stop.signal }).catch(() => {});
    }
  }

  /** Lets all go on that waited for a worker. */
  #resume() {
    for (const [request, { goOn }] of [...this.#waiting]) {
      this.#forget(request);
      goOn();
    }
  }
}

disposable(Pool, "close");

function configured(worker, args, timeout) {
  const request = new Request("configure", args, { timeout });
  worker.send(request);
  return lastOf(new ChunkStream(request));
}
