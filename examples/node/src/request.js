import { BridgeError, errorOf } from "./errors.js";
import { toJson } from "./json.js";
import { checkInteger } from "./options.js";
import { offAbort, onAbort } from "./signals.js";
import { answer, declarations } from "./tools.js";

const DEFAULT_CREDIT = 64;
export const MAX_COUNT = 2 ** 31;
const MAX_TIMER_MS = 2 ** 31 - 1;
/** How much later than its deadline the worker may tell that a request has ended, in milliseconds. */
const LATENESS_MS = 2_000;
/** Longest wait for workers to be ready, in milliseconds. */
const PATIENCE_MS = 30_000;
const DONE = Object.freeze({ value: undefined, done: true });

/**
 * One request and what has arrived for it. Workers feed it (`receive`, `fail`), the consumer takes from it
 * (`next`, `leave`). Whoever holds it at the time (`holder`: a worker, or a pool that has none ready) is told
 * when chunks have been taken, are wanted no more, or are overdue.
 */
export class Request {
  id = 0; // its number at the worker
  seq = 0; // of the chunk that must come next
  holder = null;
  ended = false; // nothing more will arrive
  received = false; // something of it has
  patience = PATIENCE_MS; // how much longer it may wait for a worker

  #command;
  #args;
  #tools;
  #toolStop = null;
  #credit;
  #deadline = null; // on the clock of performance.now()
  #timer = null;
  #signal;
  #rescue;

  // What has arrived is taken from #batch, by place; when that is used up, what came meanwhile takes its turn.
  #batch = [];
  #place = 0;
  #arrived = [];
  #taken = 0; // since the last grant
  #waiting = []; // consumers
  #error = null;

  /** `rescue(error)`: true if the failure is not to be told, because the request will be sent again. */
  constructor(command, args = {}, { credit = DEFAULT_CREDIT, timeout, signal, tools } = {}, rescue = null) {
    checkInteger("credit", credit, 1, MAX_COUNT);
    if (timeout !== undefined) checkInteger("timeout", timeout, 1, MAX_COUNT);
    this.#command = toJson(command);
    this.#args = toJson(tools ? { ...args, tools: [...(args.tools ?? []), ...declarations(tools)] } : args);
    this.#tools = tools ?? {};
    this.#credit = credit;
    this.#signal = signal;
    this.#rescue = rescue;
    if (signal?.aborted) {
      this.#end(cancelled(signal));
      return;
    }
    if (signal) onAbort(signal, this.#abort);
    if (timeout !== undefined) {
      this.#deadline = performance.now() + timeout;
      this.#timer = setTimeout(this.#expire, Math.min(timeout + LATENESS_MS, MAX_TIMER_MS));
    }
  }

  /** Milliseconds left, Infinity without a timeout. */
  get remaining() {
    return this.#deadline === null ? Infinity : Math.max(1, Math.ceil(this.#deadline - performance.now()));
  }

  /** Hands the request to a worker, where it is number `id`; gives the line to be written. */
  begin(holder, id) {
    this.holder = holder;
    this.id = id;
    this.seq = 0;
    const timeout = this.#deadline === null ? "" : `,"timeout_ms":${this.remaining}`;
    return `{"id":${id},"command":${this.#command},"args":${this.#args},"credit":${this.#credit}${timeout}}\n`;
  }

  // ---- the worker's side ---------------------------------------------------------------------------

  receive(chunk) {
    if (chunk.done === true) {
      const error = errorOf(chunk);
      if (error) {
        this.fail(error);
      } else {
        this.#deliver(chunk);
        this.#end(null);
      }
      return;
    }
    this.received = true;
    this.#deliver(chunk); // first: the tool may end the request
    if (chunk.host === true && chunk.type === "tool_call") this.#runTool(chunk);
  }

  fail(error) {
    if (this.ended || this.#rescue?.(error)) return;
    this.#end(error);
  }

  #deliver(chunk) {
    if (this.#waiting.length > 0) {
      this.#waiting.shift().resolve({ value: chunk, done: false });
      this.#count();
    } else {
      this.#arrived.push(chunk);
    }
  }

  async #runTool(chunk) {
    const { id, holder } = this;
    this.#toolStop ??= new AbortController();
    const result = await answer(this.#tools, chunk, this.#toolStop.signal);
    if (!this.ended) holder.answer(id, chunk.call_id, result);
  }

  #end(error) {
    this.ended = true;
    this.holder = null;
    this.#error = error;
    clearTimeout(this.#timer);
    if (this.#signal) offAbort(this.#signal, this.#abort);
    this.#toolStop?.abort();
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (this.#error) reject(this.#takeError());
      else resolve(DONE);
    }
  }

  #takeError() {
    const error = this.#error;
    this.#error = null;
    return error;
  }

  // ---- the consumer's side -------------------------------------------------------------------------

  /** The next chunk, as an async iterator gives it. */
  next() {
    if (this.ended && this.#signal?.aborted && this.#place < this.#batch.length + this.#arrived.length) {
      this.leave(); // aborted between the arrival of the last chunk and its turn
      return Promise.reject(cancelled(this.#signal));
    }
    if (this.#place === this.#batch.length) {
      this.#batch = this.#arrived;
      this.#place = 0;
      this.#arrived = [];
    }
    if (this.#place < this.#batch.length) {
      const chunk = this.#batch[this.#place];
      this.#batch[this.#place++] = undefined;
      this.#count();
      return Promise.resolve({ value: chunk, done: false });
    }
    if (!this.ended) return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    return this.#error ? Promise.reject(this.#takeError()) : Promise.resolve(DONE);
  }

  /** Ends the request for the consumer at once: the worker is told, what has arrived is dropped. */
  leave(error = null) {
    this.#batch = [];
    this.#place = 0;
    this.#arrived = [];
    this.#error = null;
    if (this.ended) return;
    this.holder?.forget(this);
    this.#end(error);
  }

  /** Grants as much as was taken whenever that is half the window, so that the worker need not wait. */
  #count() {
    if (++this.#taken * 2 < this.#credit || this.ended) return;
    this.holder.grant(this.id, this.#taken);
    this.#taken = 0;
  }

  #abort = () => this.leave(cancelled(this.#signal));

  // A program that was busy itself reads first what the pipe holds: setImmediate comes after reading.
  #expire = () => setImmediate(() => {
    if (this.ended) return;
    const { holder } = this;
    this.#end(new BridgeError("deadline_exceeded", "The worker did not end the request in time.", { retryable: true }));
    holder?.overdue(this);
  });
}

function cancelled(signal) {
  return new BridgeError("cancelled", "The request was cancelled by its signal.", { cause: signal.reason });
}
