import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";

import { BridgeError, Client } from "dspy-bridge";
import { alive, drained, failure, fake, real, shared, started } from "../support/workers.js";

const worker = shared(real);

test("a stream gives every chunk in order, the last one included", async () => {
  const client = await worker();
  assert.equal(client.info.type, "ready");
  const chunks = [];
  for await (const chunk of client.stream("kit.count", { n: 300 }, { credit: 7 })) chunks.push(chunk);
  assert.deepEqual(chunks.map(({ seq }) => seq), [...chunks.keys()]);
  assert.deepEqual([chunks.length, chunks.at(-1).type, chunks.at(-1).done], [301, "complete", true]);
});

test("a call gives the result", async () => {
  const client = await worker();
  const value = { text: "é€😀\u2028\u2029\u0085\u0000\ud800", list: [1, null, -0.5], "": {} };
  const { echo } = await client.call("kit.echo", value);
  assert.deepEqual(echo, { ...value, text: value.text.toWellFormed() });
  assert.equal((await client.call("kit.count", { n: 100 })).type, "complete");
});

test("requests run at the same time", async () => {
  const client = await worker();
  const held = client.stream("kit.hold", { gate: "g" });
  assert.equal((await held.next()).value.type, "started");
  await client.call("kit.release", { gate: "g" });
  assert.deepEqual((await drained(held)).chunks.map(({ type }) => type), ["released", "complete"]);
});

test("chunks may be asked for before they are there", async () => {
  const client = await worker();
  const stream = client.stream("kit.count", { n: 2 });
  const results = await Promise.all([1, 2, 3, 4, 5].map(() => stream.next()));
  assert.deepEqual(results.map(({ value, done }) => value?.type ?? done), ["chunk", "chunk", "complete", true, true]);
});

test("errors carry all that the worker told", async () => {
  const client = await worker();
  const { chunks, error } = await drained(client.stream("kit.fail", { after: 2, how: "bridge" }));
  assert.equal(chunks.length, 2);
  assert.ok(error instanceof BridgeError && error instanceof Error);
  assert.equal(String(error), "BridgeError: busy");
  const { code, retryable, retryAfterMs, details } = error;
  assert.deepEqual(
    { code, retryable, retryAfterMs, details },
    { code: "lm_rate_limit", retryable: true, retryAfterMs: 1200, details: { status: 429 } },
  );
  const unknown = await failure(client.call("kit.cuont"), "unknown_command");
  assert.equal(unknown.retryable, false);
  assert.deepEqual(unknown.details.did_you_mean.includes("kit.count"), true);
});

test("an item's error is a chunk like others", async () => {
  const client = await worker();
  const { chunks, error } = await drained(client.stream("kit.final"));
  assert.deepEqual(chunks.map(({ type }) => type), ["complete", "error", "verdict"]);
  assert.equal(error, null);
});

test("a failure is told once, then the stream is over", async () => {
  const client = await worker();
  const stream = client.stream("nothing");
  await failure(stream.next(), "unknown_command");
  assert.deepEqual(await stream.next(), { value: undefined, done: true });
});

test("leaving a loop cancels the request", async (t) => {
  const client = await started(t, fake());
  const text = '{"id":$id,"seq":0,"type":"a"}\n{"id":$id,"seq":1,"type":"b"}\n';
  for await (const chunk of client.stream("say", { text })) {
    assert.equal(chunk.type, "a");
    break;
  }
  const { heard } = await client.call("heard");
  assert.equal(heard[1], '{"command":"cancel","args":{"target":1}}');
  // What comes late concerns nobody.
  assert.equal((await client.call("say", { text: '{"id":1,"seq":9}\n{"id":$id,"seq":0,"type":"c","done":true}\n' })).type, "c");
});

test("credit is granted by half a window, for what was taken", async (t) => {
  const client = await started(t, fake());
  const lines = Array.from({ length: 10 }, (_, seq) => `{"id":$id,"seq":${seq},"type":"chunk"}\n`);
  const stream = client.stream("say", { text: lines.join("") }, { credit: 10 });
  const grants = async () => (await client.call("heard")).heard.filter((line) => line.includes('"credit"')).slice(1);
  const credits = async () => (await grants()).filter((line) => line.includes("target"));
  for (let i = 0; i < 4; i++) await stream.next();
  assert.deepEqual(await credits(), []);
  await stream.next();
  assert.deepEqual(await credits(), ['{"command":"credit","args":{"target":1,"n":5}}']);
  await stream.return();
});

test("a signal cancels", async () => {
  const client = await worker();
  const controller = new AbortController();
  const stream = client.stream("kit.flood", {}, { signal: controller.signal });
  await stream.next();
  controller.abort(new Error("enough"));
  const error = await failure(stream.next(), "cancelled");
  assert.equal(error.cause.message, "enough");
  assert.equal((await stream.next()).done, true);

  const waiting = client.stream("kit.hold", { gate: "x" }, { signal: AbortSignal.timeout(20) });
  const { error: timeout } = await drained(waiting);
  assert.equal(timeout.cause.name, "TimeoutError");
});

test("a request with an aborted signal is not sent", async (t) => {
  const client = await started(t, fake());
  await failure(client.call("say", {}, { signal: AbortSignal.abort() }), "cancelled");
  assert.equal((await client.call("heard")).heard.length, 1);
});

test("a signal aborted after the last chunk has come still ends the loop", async () => {
  const client = await worker();
  const controller = new AbortController();
  const stream = client.stream("kit.count", { n: 5 }, { signal: controller.signal });
  await client.call("ping");
  await stream.next();
  controller.abort();
  await failure(stream.next(), "cancelled");
  assert.equal((await stream.next()).done, true);
});

test("a signal that outlives its requests keeps nothing of them", async () => {
  const client = await worker();
  const { signal } = new AbortController();
  const warned = [];
  process.on("warning", (warning) => warned.push(warning));
  await Promise.all(Array.from({ length: 50 }, () => client.call("ping", {}, { signal })));
  for await (const _ of client.stream("kit.flood", {}, { signal })) break;
  await assert.rejects(client.call("nothing", {}, { signal }));
  assert.deepEqual(getEventListeners(signal, "abort"), []);
  assert.deepEqual(warned, []);
});

test("the worker keeps a timeout", async () => {
  const client = await worker();
  const error = await failure(client.call("kit.hold", {}, { timeout: 50 }), "deadline_exceeded");
  assert.equal(error.retryable, true);
});

test("what can not be sent is refused", async (t) => {
  const client = await started(t, fake());
  const cycle = {};
  cycle.self = cycle;
  for (const args of [{ n: 1n }, cycle, () => 1]) assert.throws(() => client.stream("say", args), TypeError);
  assert.throws(() => client.stream(undefined), TypeError);
  for (const options of [{ credit: 0 }, { credit: 1.5 }, { timeout: 0 }, { timeout: Infinity }]) {
    assert.throws(() => client.stream("say", {}, options), RangeError);
  }
  const { error } = await drained(client.stream("say", { text: "é".repeat(2 ** 22) }));
  assert.equal(error.code, "line_too_long");
  assert.equal((await client.call("heard")).heard.length, 1);
});

test("args are those of the moment of the request", async () => {
  const client = await worker();
  const args = { n: 1 };
  const answer = client.call("kit.echo", args);
  args.n = 2;
  assert.deepEqual((await answer).echo, { n: 1 });
});

test("long chunks arrive", async () => {
  const client = await worker();
  const { chunks } = await drained(client.stream("kit.count", { n: 20, size: 2 ** 20 }, { credit: 4 }));
  assert.deepEqual(chunks.slice(0, 20).map(({ text }) => text.length), Array(20).fill(2 ** 20));
});

for (const [name, said, words, readyTimeout] of [
  ["other than ready", '{"id":null,"type":"hello"}\n', "instead of ready", undefined],
  ["no JSON", "Hello!\n", "no JSON", undefined],
  ["nothing", "", "not ready within 50 ms", 50],
]) {
  test(`a program that says ${name} is no worker`, async () => {
    const error = await failure(Client.start({ ...fake(said), readyTimeout }), "start_failed");
    assert.ok(error.message.includes(words), error.message);
  });
}

test("a program that is not there, can not be run, or ends is no worker", async () => {
  const absent = await failure(Client.start({ argv: ["no-such-program"] }), "start_failed");
  assert.match(absent.message, /no-such-program is not there/);
  assert.match((await failure(Client.start({ argv: ["/"] }), "start_failed")).message, /can not be started/);
  const ended = await failure(Client.start({ argv: ["sh", "-c", "exit 7"] }), "start_failed");
  assert.match(ended.message, /sh exited with code 7/);
  assert.deepEqual(ended.details, { exit_code: 7 });
});

for (const [then, details] of [
  ["exit", { exit_code: 3 }],
  ["die", { signal: "SIGKILL" }],
  ["leave a child", { exit_code: 4 }],
  ["close", {}],
]) {
  test(`a worker's death is told after what it said: ${then}`, async (t) => {
    const client = await started(t, fake());
    const idle = client.call("nothing");
    const text = '{"id":$id,"seq":0,"type":"a"}\n{"id":$id,"seq":1,"type":"b"}\n{"id":$id,"se';
    const [told, { chunks, error }] = await Promise.all([
      failure(idle, "worker_died"),
      drained(client.stream("say", { text, then })),
    ]);
    assert.deepEqual(chunks.map(({ type }) => type), ["a", "b"]);
    assert.deepEqual([error.code, error.retryable, error.details], ["worker_died", true, details]);
    assert.deepEqual(told.details, details);
    assert.notEqual(told, error); // each has its own
    assert.equal(client.pid, undefined);
    await failure(client.call("heard"), "worker_died");
  });
}

for (const [name, text] of [
  ["a gap", '{"id":$id,"seq":0}\n{"id":$id,"seq":2}\n'],
  ["no seq", '{"id":$id,"seq":0}\n{"id":$id,"type":"a"}\n'],
  ["a torn line", '{"id":$id,"seq":0}\n{"id":$id,"se{"id":$id,"seq":1}\n'],
  ["a list", '{"id":$id,"seq":0}\n[]\n'],
  ["null", '{"id":$id,"seq":0}\nnull\n'],
]) {
  test(`output with ${name} is trusted no further`, async (t) => {
    const client = await started(t, fake());
    const { pid } = await client.call("pid");
    const { chunks, error } = await drained(client.stream("say", { text }));
    assert.deepEqual([chunks.length, error.code, error.retryable], [1, "protocol_error", false]);
    await failure(client.call("heard"), "protocol_error");
    await client.close();
    assert.equal(alive(pid), false);
  });
}

test("lines in another style are understood", async (t) => {
  const client = await started(t, fake());
  const text = '\r\n{ "done": true, "type": "new", "seq": 0, "future": 1, "id": $id }\r\n{"id":77,"seq":5}\n{"x":1}\n';
  assert.deepEqual(await client.call("say", { text }), { done: true, type: "new", seq: 0, future: 1, id: 1 });
  assert.equal((await client.call("heard")).heard.length, 2);
});

test("errors that concern no request are warned of", async (t) => {
  const client = await started(t, fake());
  const text = '{"id":null,"type":"error","code":"parse_error","error":"bad"}\n{"id":$id,"seq":0,"done":true}\n';
  await client.call("say", { text });
  assert.deepEqual(client.warnings, ["A line was refused by the worker: parse_error: bad"]);
});

test("close lets requests end and takes no more", async (t) => {
  const client = await started(t, real);
  const { pid } = client;
  const stream = client.stream("kit.count", { n: 200, pause_ms: 1 }, { credit: 16 });
  await stream.next();
  const closing = client.close();
  await failure(client.call("ping"), "closed");
  const { chunks, error } = await drained(stream);
  assert.deepEqual([chunks.length, error], [200, null]);
  await closing;
  await client.close();
  assert.equal(alive(pid), false);
});

test("close with abort cancels", async (t) => {
  const client = await started(t, real);
  const stream = client.stream("kit.flood");
  await stream.next();
  const [{ error }] = await Promise.all([drained(stream), client.close({ mode: "abort" })]);
  assert.deepEqual([error.code, error.retryable], ["cancelled", true]);
});

test("a worker that no longer listens has died", async (t) => {
  const ready = '{"id":null,"type":"ready"}';
  const client = await started(t, { argv: ["sh", "-c", `exec 0<&-; echo '${ready}'; exec sleep 60`] });
  const error = await failure(client.call("ping"), "worker_died");
  assert.match(error.message, /closed its input/);
});

test("options that can not be meant are refused at once", async (t) => {
  for (const options of [{ readyTimeout: 0 }, { readyTimeout: Infinity }, { readyTimeout: 2 ** 31 }]) {
    await assert.rejects(Client.start({ ...fake(), ...options }), RangeError);
  }
  const wrong = [{ argv: "dspy-bridge" }, { argv: [] }, { argv: ["sleep", 5] }, { flags: "--debug" }, { env: "A=1" }];
  for (const options of [...wrong, { onWarning: "no" }]) {
    await assert.rejects(Client.start({ ...fake(), ...options }), TypeError);
  }
  const client = await started(t, fake());
  for (const grace of [-1, 0.5, NaN, Infinity, "1"]) await assert.rejects(client.close({ grace }), RangeError);
  await assert.rejects(client.close({ mode: "kill" }), TypeError);
  assert.equal((await client.call("heard")).heard.length, 1);
});

test("a client is disposable", { skip: Symbol.asyncDispose ? false : "this Node has no such symbol" }, async () => {
  const client = await Client.start(real);
  const { pid } = client;
  const stream = client.stream("kit.flood");
  await stream[Symbol.asyncDispose]();
  assert.equal((await stream.next()).done, true);
  await client[Symbol.asyncDispose]();
  assert.equal(alive(pid), false);
});

for (const [name, ending] of [
  ["with close", "await client.close();"],
  ["without", ""],
  ["after a break", 'for await (const c of client.stream("kit.flood", {}, { timeout: 60_000 })) break;'],
]) {
  test(`a program ends by itself: ${name}`, () => {
    const code = `
      import { Client } from "dspy-bridge";
      const client = await Client.start(${JSON.stringify(real)});
      await client.call("kit.count", { n: 3, pause_ms: 30 }, { timeout: 60_000 });
      ${ending}
      console.log("done");`;
    const done = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
      cwd: new URL("..", import.meta.url),
      encoding: "utf8",
      timeout: 10_000,
    });
    assert.deepEqual([done.status, done.stdout], [0, "done\n"], done.stderr);
  });
}

describe("what takes seconds", { concurrency: 8 }, () => {
  test("the client keeps a timeout that the worker forgets", async (t) => {
    const client = await started(t, fake());
    const text = '{"id":$id,"seq":0,"type":"a"}\n';
    const { chunks, error } = await drained(client.stream("say", { text }, { timeout: 1 }));
    assert.deepEqual([chunks.length, error.code, error.retryable], [1, "deadline_exceeded", true]);
    const { heard } = await client.call("heard");
    assert.equal(heard[1], '{"command":"cancel","args":{"target":1}}');
  });

  test("a worker that will not leave is killed", async () => {
    const client = await Client.start(fake());
    const { pid } = await client.call("pid");
    const held = client.call("deaf");
    const closing = client.close({ grace: 10 });
    await failure(held, "closed");
    await closing;
    assert.equal(alive(pid), false);
  });
});
