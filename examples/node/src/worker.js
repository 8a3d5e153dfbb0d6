import { spawn } from "node:child_process";

import { BridgeError, copyOf } from "./errors.js";
import { LineReader } from "./lines.js";

/** Longest line to be waited for if the worker does not say that its own may be longer. */
const MAX_LINE_BYTES = 64 * 2 ** 20;
/** How long after the end of a process its output may be held open by others, and the reverse. */
const LINGER_MS = 250;
/** How long a worker with nothing left to do may take to leave. */
const LEAVING_MS = 2_000;

/**
 * One process: started at once, it takes requests from `ready` on until it says `bye`, is stopped or dies.
 */
export class Worker {
  /** The `ready` chunk; rejected with `start_failed` if there is none in time. */
  ready;
  /** Resolved with the error that requests are told, once those that ran have been told. */
  end;
  /** Resolved once the process is gone. */
  gone;
  /** Requests taken so far. */
  served = 0;

  #state = "starting"; // then "ready", "leaving" (finishes what it has), "ended"
  #program;
  #child;
  #lines = new LineReader(MAX_LINE_BYTES);
  #limit = Infinity; // of a line to the worker, in bytes
  #running = new Map(); // requests by id
  #lastId = 0;
  #bye; // the reason given
  #error = null; // what requests are told from now on
  #warn;
  #isReady;
  #failed;
  #hasEnded;
  #timer; // start, or stop, is to be over by then
  #halfGone = false; // one of exit and end of output has been seen

  constructor({ argv, cwd, env, readyTimeout, warn }) {
    this.#program = argv[0];
    this.#warn = warn;
    this.ready = new Promise((resolve, reject) => {
      this.#isReady = resolve;
      this.#failed = reject;
    });
    this.ready.catch(() => {}); // nobody may be waiting for it
    this.end = new Promise((resolve) => {
      this.#hasEnded = resolve;
    });
    const child = started(argv, { cwd, env, stdio: ["pipe", "pipe", "inherit"] });
    this.#child = child;
    this.gone = new Promise((resolve) => {
      child.once("exit", resolve);
      child.once("error", () => child.pid === undefined && resolve());
    });
    this.#timer = setTimeout(() => {
      this.#end(startFailed(`${this.#program} was not ready within ${readyTimeout} ms.`));
    }, readyTimeout);
    this.#watch(child);
  }

  get pid() {
    return this.#child.pid;
  }

  get inFlight() {
    return this.#running.size;
  }

  /** Whether new requests have a chance. */
  get open() {
    return this.#state === "ready";
  }

  get ended() {
    return this.#state === "ended";
  }

  // ---- what requests use -----------------------------------------------------------------------------

  send(request) {
    if (request.ended) return;
    if (this.#error) {
      request.fail(copyOf(this.#error));
      return;
    }
    const id = ++this.#lastId;
    const line = request.begin(this, id);
    if (this.#tooLong(line)) {
      request.fail(new BridgeError("line_too_long", `The request has more than ${this.#limit} bytes.`));
      return;
    }
    if (this.#running.size === 0) this.#holdProcess(true);
    this.#running.set(id, request);
    this.served++;
    this.#write(line);
  }

  grant(id, n) {
    this.#write(`{"command":"credit","args":{"target":${id},"n":${n}}}\n`);
  }

  forget(request) {
    if (!this.#running.delete(request.id)) return;
    this.#write(`{"command":"cancel","args":{"target":${request.id}}}\n`);
    this.#settle();
  }

  /** Answers a tool call; `result` is `"value":…` or `"error":…`. */
  answer(id, callId, result) {
    const line = (part) =>
      `{"command":"tool_result","args":{"target":${id},"call_id":${JSON.stringify(callId)},${part}}}\n`;
    const text = line(result);
    this.#write(this.#tooLong(text) ? line(`"error":"The result has more than ${this.#limit} bytes."`) : text);
  }

  // ---- its end ---------------------------------------------------------------------------------------

  /**
   * Takes nothing new; what runs may go on for `grace` milliseconds, or with mode "abort" not at all. Resolved
   * once the process is gone.
   */
  async stop({ mode = "drain", grace = 30_000 } = {}) {
    if (this.#state === "starting") this.#end(closed());
    if (this.#state === "ready" || this.#state === "leaving") {
      this.#state = "leaving";
      this.#error = closed();
      this.#holdProcess(true);
      this.#write(`{"command":"shutdown","args":{"mode":${JSON.stringify(mode)},"grace_ms":${grace}}}\n`);
      this.#killIn((mode === "drain" ? grace : 0) + LEAVING_MS);
      this.#settle();
    }
    await this.gone;
  }

  /** Ends the worker at once, for a reason of the owner's. */
  fail(error) {
    this.#end(error);
  }

  /** What follows when a request is over. */
  #settle() {
    if (this.#running.size > 0 || this.#state === "ended") return;
    if (this.#state === "leaving" && this.#error) {
      this.#child.stdin.end(); // it was stopped and has nothing left to do
      this.#killIn(LEAVING_MS);
    } else {
      this.#holdProcess(false);
    }
  }

  /** Whether this process, which may have nothing else to do, goes on because of the worker. */
  #holdProcess(hold) {
    const { stdin, stdout } = this.#child;
    for (const handle of [this.#child, stdin, stdout]) handle[hold ? "ref" : "unref"]();
  }

  #killIn(ms) {
    if (this.#halfGone) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#end(closed()), Math.min(ms, 2 ** 31 - 1));
  }

  /** Tells everyone, whatever led here; the process does not survive it. */
  #end(error) {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#error = error;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    child.stdin?.destroy();
    child.stdout?.destroy();
    const requests = [...this.#running.values()];
    this.#running.clear();
    for (const request of requests) request.fail(copyOf(error));
    this.#failed(error);
    this.#hasEnded(error);
  }

  // ---- the process -----------------------------------------------------------------------------------

  #watch(child) {
    const one = () => {
      if (this.#halfGone) {
        this.#end(this.#death());
      } else if (this.#state !== "ended") {
        this.#halfGone = true;
        // What the pipe holds is read before anyone is told: setImmediate comes after reading, a due timer before.
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => setImmediate(() => this.#end(this.#death())), LINGER_MS);
      }
    };
    child.once("exit", one); // not "close": that waits for children of the worker that hold its output open
    child.on("error", (error) => {
      if (child.pid === undefined) this.#end(notStarted(this.#program, error));
    });
    child.stdin?.on("error", () => {}); // the worker has left, which its exit tells
    child.stdout?.on("error", () => {});
    child.stdout?.once("end", one);
    child.stdout?.on("data", (buffer) => this.#read(buffer));
  }

  #death() {
    const { exitCode, signalCode } = this.#child;
    let how = "closed its output";
    if (signalCode) how = `was ended by ${signalCode}`;
    else if (exitCode !== null) how = `exited with code ${exitCode}`;
    const details = {};
    if (signalCode) details.signal = signalCode;
    else if (exitCode !== null) details.exit_code = exitCode;
    if (this.#bye !== undefined) details.bye = this.#bye;
    if (this.#state === "starting") {
      return startFailed(`The worker ended before it had answered: ${this.#program} ${how}.`, { details });
    }
    if (this.#error) return this.#error; // it was stopped
    return new BridgeError("worker_died", `The worker ended: ${this.#program} ${how}.`, { retryable: true, details });
  }

  #write(text) {
    if (this.#child.stdin.writable) this.#child.stdin.write(text);
  }

  #tooLong(line) {
    return line.length * 3 > this.#limit && Buffer.byteLength(line) - 1 > this.#limit;
  }

  // ---- what it says ----------------------------------------------------------------------------------

  #read(buffer) {
    let lines;
    try {
      lines = this.#lines.push(buffer);
    } catch (error) {
      this.#violated(error.message);
      return;
    }
    for (const line of lines) {
      if (this.#state === "ended") return;
      this.#line(line);
    }
  }

  #line(line) {
    let chunk;
    try {
      chunk = JSON.parse(line);
    } catch {
      if (line.trim() !== "") this.#violated(`it said ${shortened(line)}, which is no JSON`);
      return;
    }
    const request = this.#running.get(chunk?.id);
    if (request === undefined) {
      this.#other(chunk, line);
    } else if (chunk.seq !== request.seq) {
      this.#violated(`a chunk has seq ${chunk.seq} instead of ${request.seq}`);
    } else {
      request.seq++;
      if (chunk.done === true) this.#finished(request, chunk);
      request.receive(chunk);
    }
  }

  #finished(request, chunk) {
    this.#running.delete(request.id);
    if (chunk.code === "shutting_down" && this.#state === "ready") this.#state = "leaving";
    this.#settle();
  }

  /** Lines of no request that is running: late ones are of no interest. */
  #other(chunk, line) {
    if (typeof chunk !== "object" || chunk === null || Array.isArray(chunk)) {
      this.#violated(`it said ${shortened(line)}, which is no object`);
    } else if (this.#state === "starting") {
      if (chunk.type !== "ready") this.#violated(`it said ${shortened(line)} instead of ready`);
      else this.#begin(chunk);
    } else if (chunk.id === null && chunk.type === "bye") {
      this.#bye = chunk.reason ?? null;
      this.#state = "leaving";
    } else if (chunk.id === null && chunk.type === "error") {
      this.#warn(`A line was refused by the worker: ${chunk.code}: ${chunk.error}`);
    }
  }

  #begin(ready) {
    clearTimeout(this.#timer);
    this.#state = "ready";
    const limit = ready.limits?.max_line_bytes;
    if (typeof limit === "number") {
      this.#limit = limit;
      this.#lines.maxBytes = Math.max(limit, MAX_LINE_BYTES);
    }
    this.#settle();
    this.#isReady(ready);
  }

  #violated(what) {
    if (this.#state === "starting") this.#end(startFailed(`${this.#program} is no worker: ${what}.`));
    else this.#end(new BridgeError("protocol_error", `Output of the worker was lost or torn: ${what}.`));
  }
}

export function closed() {
  return new BridgeError("closed", "The client is closed.");
}

export function startFailed(message, options) {
  return new BridgeError("start_failed", message, options);
}

/** Most failures come as an event, some are thrown. */
function started(argv, options) {
  try {
    return spawn(argv[0], argv.slice(1), options);
  } catch (error) {
    throw notStarted(argv[0], error);
  }
}

function notStarted(program, error) {
  const missing = `The program ${program} is not there, or the folder it should run in.`;
  const why = error.code === "ENOENT" ? missing : `The program ${program} can not be started: ${error.message}.`;
  return startFailed(why, { cause: error });
}

function shortened(line) {
  return JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}…` : line);
}
