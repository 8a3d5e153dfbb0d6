import assert from "node:assert/strict";
import { once } from "node:events";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

import { BridgeError, Client, Pool } from "dspy-bridge";

const python = process.env.PYTHON ?? "python3";

/** The real worker with the commands of the worker's own tests. */
export const real = {
  argv: [python, "-m", "bridge", "serve", "--commands", "tests.support.commands"],
  cwd: fileURLToPath(new URL("../../..", import.meta.url)),
};

/** A worker that does as it is told; `start`: what it says first instead of ready. */
export function fake(start) {
  const script = fileURLToPath(new URL("fake_worker.js", import.meta.url));
  return { argv: [process.execPath, script, ...(start === undefined ? [] : [start])] };
}

/** A started client, or with `workers` a pool, that is closed at the end of the test `t`. */
export async function started(t, options) {
  const warnings = [];
  const type = options.workers ? Pool : Client;
  const client = await type.start({ onWarning: (text) => warnings.push(text), ...options });
  client.warnings = warnings;
  t.after(() => client.close({ mode: "abort" }));
  return client;
}

/** The same client for all tests of a file that do not harm it. */
export function shared(options) {
  let client;
  after(async () => (await client)?.close({ mode: "abort" }));
  return () => (client ??= Client.start(options));
}

/** The error with which `promise` is rejected: a BridgeError of this code. */
export async function failure(promise, code) {
  let error;
  await assert.rejects(promise, (rejected) => {
    error = rejected;
    return true;
  });
  assert.ok(error instanceof BridgeError, error?.stack);
  assert.equal(error.code, code, error.message);
  return error;
}

/** All chunks of a stream, and the error that ended it. */
export async function drained(stream) {
  const chunks = [];
  try {
    for await (const chunk of stream) chunks.push(chunk);
  } catch (error) {
    return { chunks, error };
  }
  return { chunks, error: null };
}

/** Fulfilled once `signal` is aborted. */
export async function aborted(signal) {
  if (!signal.aborted) await once(signal, "abort");
}

/** Whether the process is there, not counting one that has ended and is not yet reaped. */
export function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
