import { spawn } from "node:child_process";

import { BridgeError, copyOf } from "./errors.js";
import { LineReader } from "./lines.js";
import { closingWith } from "./options.js";

/** Longest line to be waited for if the worker does not say that its own may be longer. */
const MAX_LINE_BYTES = 64 * 2 ** 20;
/** How long after the end of a process its output may be held open by others, and the reverse. */
const LINGER_MS = 250;
const MAX_TIMER_MS = 2 ** 31 - 1;
/** How long a worker with nothing left to do may take to leave. */
const LEAVING_MS = 2_000;

/**
 * One process: started at once, it takes requests from `ready` on until it says `bye`, is stopped or dies.
 */
export class Worker {
  /** The `ready` chunk; rejected with `start_failed` if there is none in time. */
  ready;
  /** Resolved once it takes nothing new: with why it has ended, or null if it leaves by itself. */
  left;
  /** Resolved once the process is gone. */
  gone;
  /** Whether it has looked at a request. */
  useful = false;
  /** Whether its pool lets it have requests of others. */
  admitted = false;

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
  #hasLeft;
  #replaceable;
  #timer; // start, or stop, is to be over by then
  #dying = false; // it has ended, but what it said may not have been read

  /** `replaceable`: it does not survive a request that it fails to end in time. */
  constructor({ argv, cwd, env, readyTimeout, warn, replaceable = false }) {
    this.#program = argv[0];
    this.#warn = warn;
    this.#replaceable = replaceable;
    this.ready = new Promise((resolve, reject) => {
      this.#isReady = resolve;
      this.#failed = reject;
    });
    this.ready.catch(() => {}); // nobody may be waiting for it
    this.left = new Promise((resolve) => {
      this.#hasLeft = resolve;
    });
    const child = started(argv, { cwd, env, stdio: ["pipe", "pipe", "inherit"] });
    this.#child = child;
    this.gone = new Promise((resolve) => {
      child.once("exit", resolve);
      child.once("error", () => child.pid === undefined && resolve());
    });
    this.#endIn(readyTimeout, () => startFailed(`${this.#program} was not ready within ${readyTimeout} ms.`));
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
    this.#write(line);
  }

  grant(id, n) {
    this.#write(`{"command":"credit","args":{"target":${id},"n":${n}}}\n`);
  }

  forget(request) {
    if (!this.#running.delete(request.id)) return;
    this.#write(`{"command":"cancel","args":{"target":${request.id}}}\n`);
    this.#tellLeft();
    this.#settle();
  }

  /** What has to be done about a request whose end is long due: a worker that hangs would take others. */
  overdue(request) {
    if (this.#replaceable) this.#end(died("The worker did not end a request in time and was killed."));
    else this.forget(request);
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
  async stop(options) {
    const { mode, grace } = closingWith(options);
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
    if (this.#state === "leaving") {
      this.#child.stdin.end(); // it has nothing left to do
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

  /** It takes nothing new any more, but ends what it has. */
  #leave() {
    if (this.#state !== "ready") return;
    this.#state = "leaving";
    this.#tellLeft();
  }

  /** Told late if nothing has shown yet whether it was of use: refusals come before answers. */
  #tellLeft() {
    if (this.#state === "leaving" && (this.useful || this.#running.size === 0)) this.#hasLeft(null);
  }

  #killIn(ms) {
    if (!this.#dying) this.#endIn(ms, () => this.#death());
  }

  /** What the pipe holds by then is read before anyone is told: setImmediate comes after reading, a timer before. */
  #endIn(ms, why) {
    clearTimeout(this.#timer);
    const end = () => this.#timer === timer && this.#end(why());
    const timer = setTimeout(() => setImmediate(end), Math.min(ms, MAX_TIMER_MS));
    this.#timer = timer;
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
    this.#hasLeft(error);
  }

  // ---- the process -----------------------------------------------------------------------------------

  #watch(child) {
    let half = false; // one of exit and end of output has been seen
    const dying = () => {
      if (this.#dying || this.#state === "ended") return;
      this.#killIn(LINGER_MS);
      this.#dying = true;
    };
    const one = () => {
      if (half) this.#end(this.#death());
      half = true;
      dying();
    };
    child.once("exit", one); // not "close": that waits for children of the worker that hold its output open
    child.on("error", (error) => {
      if (child.pid === undefined) this.#end(notStarted(this.#program, error));
    });
    child.stdin?.on("error", () => this.#state !== "leaving" && dying()); // it hears nothing any more
    child.stdout?.on("error", () => {});
    child.stdout?.once("end", one);
    child.stdout?.on("data", (buffer) => this.#read(buffer));
  }

  #death() {
    const { exitCode, signalCode } = this.#child;
    let how = this.#bye === undefined ? "closed its input or output" : "said bye";
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
    return died(`The worker ended: ${this.#program} ${how}.`, details);
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
      else this.useful = true;
      request.receive(chunk);
    }
  }

  #finished(request, chunk) {
    this.#running.delete(request.id);
    if (chunk.type === "error" && chunk.code === "shutting_down") this.#leave();
    else this.useful = true;
    this.#tellLeft();
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
      this.#leave();
      this.#killIn(LEAVING_MS);
    } else if (chunk.id === null && chunk.type === "error") {
      this.#warn(`A line was refused by the worker: ${chunk.code}: ${chunk.error}`);
    }
  }

  #begin(ready) {
    clearTimeout(this.#timer);
    this.#timer = null;
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

function died(message, details) {
  return new BridgeError("worker_died", message, { retryable: true, details });
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
