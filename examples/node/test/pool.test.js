import assert from "node:assert/strict";
import { test } from "node:test";

import { Pool } from "dspy-bridge";
import { alive, drained, failure, fake, real, started } from "../support/workers.js";


test("requests go to the workers that have the fewest", async (t) => {
  const pool = await started(t, { ...fake(), workers: 3 });
  assert.equal(pool.ready, 3);
  const held = [1, 2].map(() => pool.stream("nothing"));
  const pids = new Set();
  const { pid } = await pool.call("pid"); // the one worker that has none
  for (let i = 0; i < 5; i++) pids.add((await pool.call("pid")).pid);
  assert.deepEqual([...pids], [pid]);
  assert.ok(pool.pids.includes(pid) && pool.pids.length === 3);
  for (const stream of held) await stream.return();
});

test("a worker that dies is replaced, and the next request goes on", async (t) => {
  const pool = await started(t, { ...real, workers: 1 });
  const stream = pool.stream("kit.flood");
  await stream.next();
  const [pid] = pool.pids;
  process.kill(pid, "SIGKILL");
  const { error } = await drained(stream);
  assert.deepEqual([error.code, error.retryable, error.details], ["worker_died", true, { signal: "SIGKILL" }]);
  assert.equal((await pool.call("ping")).type, "pong");
  assert.notEqual(pool.pids[0], pid);
  assert.match(pool.warnings[0], /SIGKILL. Another one is started in 0 ms/);
});

test("one worker's death is no concern of the others", async (t) => {
  const pool = await started(t, { ...real, workers: 2 });
  const streams = [1, 2].map(() => pool.stream("kit.count", { n: 100, pause_ms: 2 }));
  for (const stream of streams) await stream.next();
  process.kill(pool.pids[0], "SIGKILL");
  const ends = await Promise.all(streams.map(drained));
  assert.deepEqual(ends.map(({ error }) => error?.code), ["worker_died", undefined]);
  assert.equal(ends[1].chunks.length, 100);
});

test("a request is sent again as often as asked, if nothing of it had come", async (t) => {
  const pool = await started(t, { ...fake(), workers: 1 });
  await failure(pool.call("say", { then: "exit" }, { retries: 1 }), "worker_died");
  assert.equal(pool.warnings.length, 2); // so it was sent twice
  await failure(pool.call("say", { text: '{"id":$id,"seq":0}\n', then: "exit" }, { retries: 5 }), "worker_died");
  assert.equal(pool.warnings.length, 3);
});

test("a request that is sent again is answered by a worker that lives", async (t) => {
  const pool = await started(t, { ...real, workers: 2 });
  const stopped = pool.pids[0];
  process.kill(stopped, "SIGSTOP"); // so that nothing of the request can come
  const answers = [1, 2].map(() => pool.call("ping", {}, { retries: 1 }));
  process.kill(stopped, "SIGKILL");
  assert.deepEqual((await Promise.all(answers)).map(({ type }) => type), ["pong", "pong"]);
});

test("what a leaving worker refuses goes to another one, unasked", async (t) => {
  const pool = await started(t, { ...fake(), workers: 2 });
  const refusal = (code) => `{"id":$id,"seq":0,"type":"error","code":"${code}","error":"no","retryable":true,"done":true}\n`;
  const before = pool.pids;
  // The first worker refuses and leaves, the second one is then asked, and so on: until one answers.
  const refused = pool.call("say", { text: refusal("shutting_down"), then: "exit" }, { timeout: 1_500 });
  const error = await failure(refused, "start_failed");
  assert.equal(error.retryable, true);
  assert.ok(pool.pids.every((pid) => !before.includes(pid)));
  await failure(pool.call("say", { text: refusal("overloaded") }), "overloaded");
});

test("a worker that is recycled loses nothing", async (t) => {
  const pool = await started(t, { ...real, argv: [...real.argv, "--max-requests", "20"], workers: 1 });
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => pool.call("kit.echo", { i })));
  assert.deepEqual(answers.map(({ echo }) => echo.i), [...answers.keys()]);
  assert.deepEqual(pool.warnings, []);
});

test("all workers are configured, those that come later, too", async (t) => {
  const pool = await started(t, { ...fake(), workers: 2 });
  const configure = (args) => pool.call("configure", args);
  /** What each worker was configured with: two requests at once go to two workers. */
  const configured = async () => {
    const answers = await Promise.all([1, 2].map(() => pool.call("heard")));
    const requests = answers.map(({ heard }) => heard.map((line) => JSON.parse(line)));
    return requests.map((each) => each.filter(({ command }) => command === "configure").map(({ args }) => args));
  };
  assert.equal((await configure({ lm: "first" })).lm, "first");
  await Promise.all([configure({ lm: "second" }), configure({ name: "other", lm: "third" })]);
  await configure({ adapter: "json" });
  await failure(configure({ lm: "bad" }), "invalid_args");
  const sent = [{ lm: "first" }, { lm: "second" }, { name: "other", lm: "third" }, { adapter: "json" }, { lm: "bad" }];
  assert.deepEqual(await configured(), [sent, sent]);

  await Promise.all([1, 2].map(() => failure(pool.call("say", { then: "exit" }), "worker_died")));
  const kept = sent.slice(1, 4); // what was replaced or refused is not sent again
  assert.deepEqual(await configured(), [kept, kept]);
});

test("a pool that can not start says why", async () => {
  const absent = await failure(Pool.start({ argv: ["no-such-program"], workers: 3 }), "start_failed");
  assert.match(absent.message, /no-such-program/);
  await failure(Pool.start({ ...fake("Hello!\n"), workers: 2 }), "start_failed");
  await assert.rejects(Pool.start({ ...fake(), workers: 0 }), RangeError);
});

test("close drains, refuses what waits, and leaves no process", async (t) => {
  const pool = await started(t, { ...real, workers: 2 });
  const { pids } = pool;
  const streams = [1, 2].map(() => pool.stream("kit.count", { n: 50, pause_ms: 1 }));
  for (const stream of streams) await stream.next();
  const closing = pool.close();
  await failure(pool.call("ping"), "closed");
  await failure(pool.call("configure"), "closed");
  for (const { chunks, error } of await Promise.all(streams.map(drained))) {
    assert.deepEqual([chunks.length, error], [50, null]);
  }
  await closing;
  assert.deepEqual([pids.filter(alive), pool.pids, pool.ready], [[], [], 0]);
});

test("a request that waits for a worker can be left and is refused by close", async (t) => {
  const pool = await started(t, { ...fake(), workers: 1 });
  for (let i = 0; i < 2; i++) await failure(pool.call("say", { then: "exit" }), "worker_died");
  assert.equal(pool.ready, 0);
  const controller = new AbortController();
  const left = pool.call("pid", {}, { signal: controller.signal });
  controller.abort();
  await failure(left, "cancelled");
  const waiting = pool.call("pid");
  await pool.close();
  await failure(waiting, "closed");
});
