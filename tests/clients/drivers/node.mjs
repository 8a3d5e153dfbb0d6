// Drives the Node client as the tests of all clients ask: operations in on stdin, events out on stdout.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, Pool } from "../../../examples/node/src/index.js";

const TOOLS = {
  add: { description: "The sum of two numbers.", args: { a: { type: "number" }, b: { type: "number" } }, run: add },
  echo: { description: "Gives back what it is given.", args: { value: {} }, run: ({ value }) => value },
  fail: { description: "Fails.", args: {}, run: fail },
  hang: { description: "Never answers.", args: {}, run: () => new Promise(() => {}) },
  late: { description: "Answers late.", args: { ms: { type: "number" } }, run: ({ ms }) => sleep(ms, "late") },
};
const clients = new Map();
const signals = new Map();
let client; // the one started last

function add({ a, b }) {
  return a + b;
}

function fail() {
  throw new Error("the tool failed");
}

function tell(op, event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ ref: op.ref, event, ...fields })}\n`);
}

const OPERATIONS = {
  async start({ ref, argv, workers = 0, ready_ms: readyTimeout }) {
    client = workers > 0 ? await Pool.start({ argv, workers, readyTimeout }) : await Client.start({ argv, readyTimeout });
    clients.set(ref, client);
    return ["started"];
  },

  async call(op) {
    return request(op, async (options) => {
      const chunk = await client.call(op.command, op.args, options);
      return ["result", { chunk }];
    });
  },

  async stream(op) {
    return request(op, (options, progress) => consume(op, options, progress));
  },

  async cancel(op) {
    signals.get(op.ref)?.abort();
  },

  async ping({ n, command = "ping", args = {} }) {
    const times = [];
    for (let i = 0; i < n; i++) {
      const before = performance.now();
      await client.call(command, args);
      times.push((performance.now() - before) * 1000);
    }
    times.sort((a, b) => a - b);
    return ["pings", { p50_us: times[Math.floor(n * 0.5)], p99_us: times[Math.floor(n * 0.99)] }];
  },

  raw,

  async pids() {
    return ["pids", { pids: client.pids ?? [client.pid] }];
  },

  async stop({ ref, grace_ms: grace }) {
    await (clients.get(ref) ?? client).close({ grace });
    return ["stopped"];
  },
};

async function request(op, run) {
  const controller = new AbortController();
  signals.set(op.ref, controller);
  const tools = op.tools && Object.fromEntries(op.tools.map((name) => [name, TOOLS[name]]));
  const { timeout_ms: timeout, credit, retries } = op;
  const progress = { count: 0 };
  try {
    return await run({ timeout, credit, retries, tools, signal: controller.signal }, progress);
  } catch (error) {
    if (controller.signal.aborted && error.code === "cancelled") return ["left", progress];
    return ["failed", { ...told(error), ...progress }];
  } finally {
    signals.delete(op.ref);
  }
}

async function consume(op, options, progress) {
  const before = performance.now();
  let inOrder = true;
  let type;
  let leaving;
  for await (const chunk of client.stream(op.command, op.args, options)) {
    if (chunk.type === "chunk" && chunk.n !== progress.count) inOrder = false;
    type = chunk.type;
    progress.count++;
    if (op.report === "chunks") tell(op, "chunk", { chunk });
    if (progress.count === op.take) {
      leaving = performance.now();
      break;
    }
    if (op.slow_every && progress.count % op.slow_every === 0) await sleep(op.slow_ms);
  }
  const after = performance.now();
  if (leaving !== undefined) return ["left", { count: progress.count, ms: after - leaving }];
  return ["ended", { count: progress.count, in_order: inOrder, ms: after - before, type }];
}

/** What the pipe itself can do: spawn, split lines, decode. */
function raw({ argv, line }) {
  const worker = spawn(argv[0], argv.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  const parts = [];
  let count = -1; // without the first line, ready
  let since;
  return new Promise((resolve, reject) => {
    worker.on("error", reject);
    worker.stdin.on("error", () => {});
    worker.stdout.on("end", () => reject(new Error("The worker ended before it had answered.")));
    worker.stdout.on("data", (buffer) => {
      const end = buffer.lastIndexOf(10);
      if (end < 0) {
        parts.push(buffer);
        return;
      }
      const whole = Buffer.concat([...parts.splice(0), buffer.subarray(0, end)]).toString();
      parts.push(buffer.subarray(end + 1));
      for (const text of whole.split("\n")) {
        const chunk = JSON.parse(text);
        if (++count === 0) {
          since = performance.now();
          worker.stdin.write(`${line}\n`);
        } else if (chunk.done === true) {
          const ms = performance.now() - since;
          worker.kill("SIGKILL");
          resolve(["raw", { count, ms }]);
        }
      }
    });
  });
}

function told({ name, code = name, message, retryable = false }) {
  return { code, error: message, retryable };
}

async function perform(op) {
  try {
    const event = await OPERATIONS[op.op](op);
    if (event) tell(op, ...event);
  } catch (error) {
    tell(op, "failed", told(error));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const op = JSON.parse(line);
  const performing = perform(op);
  if (op.op === "start" || op.op === "stop") await performing;
}
await Promise.all([...clients.values()].map((each) => each.close({ mode: "abort" })));
process.exit(0);
