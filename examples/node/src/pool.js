import { setTimeout as sleep } from "node:timers/promises";

import { Configurations } from "./configurations.js";
import { disposable } from "./dispose.js";
import { checkInteger, closingWith, withDefaults } from "./options.js";
import { MAX_COUNT, Request } from "./request.js";
import { ChunkStream, lastOf } from "./stream.js";
import { closed, startFailed, Worker } from "./worker.js";

const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 10_000;
/** A worker that was up for so long shows that starting is worth while. */
const PROVEN_MS = 10_000;
/** Codes of a worker that goes or has gone, whatever it was asked. */
const LEFT = new Set(["worker_died", "shutting_down"]);

/** Several workers of one command line behind the methods of a client; see `index.d.ts`. */
export class Pool {
  #options;
  #workers = new Set(); // all whose processes may be there
  #waiting = new Map(); // by request that no worker could take: its timer, since when, and how it goes on
  #configurations = new Configurations();
  #lastReason = null; // why a worker could not be used
  #closing = false;
  #stop = new AbortController();

  static async start({ workers = 2, ...options } = {}) {
    checkInteger("workers", workers, 1, MAX_COUNT);
    const pool = new Pool(withDefaults(options));
    try {
      const starts = Array.from({ length: workers }, () => new Promise((...booted) => pool.#supervise(...booted)));
      await Promise.all(starts);
    } catch (error) {
      await pool.close({ mode: "abort" });
      throw error;
    }
    return pool;
  }

  constructor(options) {
    this.#options = options;
  }

  get pids() {
    return [...this.#workers].filter((worker) => !worker.ended && worker.pid !== undefined).map(({ pid }) => pid);
  }

  get ready() {
    return this.#usable().length;
  }

  stream(command, args, { retries = 0, ...options } = {}) {
    checkInteger("retries", retries, 0, MAX_COUNT);
    let left = retries;
    const rescue = (error) => {
      if (this.#closing || request.received) return false;
      // A worker that refuses everything, or has said bye, never looked at the request.
      const unread = error.code === "shutting_down" || error.details?.bye !== undefined;
      if (!unread && !(error.code === "worker_died" && left-- > 0)) return false;
      send();
      return true;
    };
    const request = new Request(command, args, options, rescue);
    let send = () => this.#place(request);
    if (command === "configure") {
      const copy = JSON.parse(JSON.stringify(args ?? {})); // it may be sent long from now
      send = () => this.#configure(request, copy);
    }
    if (this.#closing) request.fail(closed());
    else if (!request.ended) send();
    return new ChunkStream(request);
  }

  async call(command, args, options) {
    return lastOf(this.stream(command, args, options));
  }

  async close(options) {
    const how = closingWith(options);
    this.#closing = true;
    this.#stop.abort();
    for (const request of [...this.#waiting.keys()]) {
      this.#forget(request);
      request.fail(closed());
    }
    await Promise.all([...this.#workers].map((worker) => worker.stop(how)));
  }

  // ---- requests --------------------------------------------------------------------------------------

  #usable() {
    return [...this.#workers].filter(({ admitted, open }) => admitted && open);
  }

  #place(request) {
    const workers = this.#usable();
    if (workers.length === 0) {
      this.#wait(request, () => this.#place(request));
    } else {
      workers.reduce((best, worker) => (worker.inFlight < best.inFlight ? worker : best)).send(request);
    }
  }

  #wait(request, goOn) {
    const forget = () => this.#forget(request);
    request.holder = { forget, overdue: forget };
    const giveUp = () => {
      forget();
      const why = this.#lastReason ? ` ${this.#lastReason.message}` : "";
      request.fail(startFailed(`No worker became ready in time.${why}`, { retryable: true }));
    };
    const timer = setTimeout(giveUp, Math.min(request.patience, request.remaining));
    this.#waiting.set(request, { timer, since: performance.now(), goOn });
  }

  #forget(request) {
    if (!this.#waiting.has(request)) return; // it goes on already
    const { timer, since } = this.#waiting.get(request);
    clearTimeout(timer);
    this.#waiting.delete(request);
    request.patience -= performance.now() - since;
  }

  /** Configures every worker: those that are ready now, by replay those that are starting. */
  async #configure(request, args) {
    const workers = this.#usable();
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
  async #supervise(booted, failed) {
    let up = false;
    let failures = 0; // in a row
    while (!this.#closing) {
      let since = Infinity;
      let worker;
      let reason;
      try {
        worker = this.#born();
        await worker.ready;
        await this.#prepare(worker);
        since = performance.now();
        up = true;
        booted();
        this.#resume();
        reason = await worker.left;
      } catch (error) {
        reason = error;
        worker?.fail(error);
        failed(error);
      }
      if (!up || this.#closing) return;
      if (reason === null && worker.useful) continue; // it is recycled
      this.#lastReason = reason ?? startFailed("The worker left before it had done anything.");
      if (performance.now() - since >= PROVEN_MS) failures = 0;
      const delay = failures === 0 ? 0 : Math.min(FIRST_DELAY_MS * 2 ** (failures - 1), MAX_DELAY_MS);
      failures++;
      this.#options.warn(`${this.#lastReason.message} Another one is started in ${delay} ms.`);
      if (delay > 0) await sleep(delay, undefined, { ref: false, signal: this.#stop.signal }).catch(() => {});
    }
  }

  #born() {
    const worker = new Worker({ ...this.#options, replaceable: true });
    this.#workers.add(worker);
    worker.gone.then(() => this.#workers.delete(worker));
    return worker;
  }

  /** Configures a new worker as the others are, and lets it have requests. */
  #prepare(worker) {
    const { readyTimeout } = this.#options;
    return this.#configurations.replay(
      (args) => configured(worker, args, readyTimeout),
      () => {
        worker.useful = false; // so far nobody had asked for anything
        worker.admitted = true;
      },
    );
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
