import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";

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
  for (const retries of [-1, 0.5, "1"]) assert.throws(() => pool.stream("pid", {}, { retries }), RangeError);
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

test("a worker that is recycled loses nothing", async (t) => {
  const pool = await started(t, { ...real, argv: [...real.argv, "--max-requests", "20"], workers: 1 });
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => pool.call("kit.echo", { i })));
  assert.deepEqual(answers.map(({ echo }) => echo.i), [...answers.keys()]);
  assert.deepEqual(pool.warnings, []);
});

test("a worker that leaves is replaced before it has gone", async (t) => {
  const pool = await started(t, { ...real, argv: [...real.argv, "--max-requests", "1"], workers: 1 });
  const held = pool.stream("kit.hold");
  await held.next();
  assert.equal((await pool.call("ping")).type, "pong");
  assert.equal((await held.next(held.return())).done, true);
  assert.deepEqual(pool.warnings, []);
});

test("a result that speaks of shutting down is no refusal", async (t) => {
  const pool = await started(t, { ...fake(), workers: 1 });
  const text = '{"id":$id,"seq":0,"type":"result","code":"shutting_down","done":true}\n';
  assert.equal((await pool.call("say", { text })).type, "result");
  assert.equal(pool.ready, 1);
});

test("what a pool is configured with reaches a worker whatever happens to the one before", async (t) => {
  const pool = await started(t, { ...fake(), workers: 1 });
  const done = '{"id":$id,"seq":0,"done":true}\n';
  const args = { lm: "first", how() {}, when: new Date(0) };
  const [, { lm, when }] = await Promise.all([
    pool.call("say", { text: done, then: "leave" }),
    pool.call("configure", args),
  ]);
  assert.deepEqual([lm, when], ["first", "1970-01-01T00:00:00.000Z"]);
  await failure(pool.call("configure", { lm: "never" }, { signal: AbortSignal.abort() }), "cancelled");
  assert.equal((await pool.call("heard")).heard.length, 2);
});

test("a callback that throws does not end the pool", () => {
  const code = `
    import { Pool } from "dspy-bridge";
    process.on("uncaughtException", (error) => console.log(error.message));
    const onWarning = () => { throw new Error("mine"); };
    const pool = await Pool.start({ ...${JSON.stringify(fake())}, workers: 1, onWarning });
    await pool.call("say", { then: "exit" }).catch(() => {});
    console.log((await pool.call("pid")).type);`;
  const cwd = new URL("..", import.meta.url);
  const done = spawnSync(process.execPath, ["--input-type=module", "-e", code], { cwd, encoding: "utf8" });
  assert.deepEqual([done.status, done.stdout], [0, "mine\nresult\n"], done.stderr);
});

test("a close may be hastened by another one", async () => {
  const pool = await Pool.start({ ...real, workers: 1 });
  const held = failure(pool.call("kit.hold"), "cancelled");
  await pool.call("ping");
  await Promise.all([pool.close(), pool.close({ mode: "abort" })]);
  await held;
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

describe("what takes seconds", { concurrency: 8 }, () => {
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

  test("a worker that leaves before it has done anything is not replaced at once again and again", async () => {
    const ready = '{"id":null,"type":"ready"}\n{"id":null,"type":"bye","reason":"recycle"}\n';
    let warned;
    const third = new Promise((resolve) => (warned = resolve));
    const onWarning = (text) => text.endsWith("in 200 ms.") && warned(text);
    const pool = await Pool.start({ ...fake(ready), workers: 1, onWarning });
    assert.match(await third, /left before it had done anything/);
    await pool.close();
  });

  test("a worker that says bye and stays is killed", async (t) => {
    const pool = await started(t, { ...fake(), workers: 1 });
    const text = '{"id":$id,"seq":0}\n{"id":null,"type":"bye","reason":"recycle"}\n';
    const stays = pool.call("say", { text });
    const { message, details } = await failure(stays, "worker_died");
    assert.match(message, /said bye/);
    assert.deepEqual(details, { bye: "recycle" });
  });

  test("a worker that hangs is replaced once a request is overdue", async (t) => {
    const pool = await started(t, { ...real, workers: 1 });
    process.kill(pool.pids[0], "SIGSTOP");
    const beside = failure(pool.call("ping"), "worker_died");
    await failure(pool.call("ping", {}, { timeout: 10 }), "deadline_exceeded");
    await beside;
    assert.equal((await pool.call("ping")).type, "pong");
  });

  test("a worker that hangs while it is configured is replaced", async (t) => {
    const pool = await started(t, { ...fake(), workers: 1, readyTimeout: 2_000 });
    await pool.call("configure", { lm: "first", only: pool.pids[0] });
    await failure(pool.call("say", { then: "exit" }), "worker_died");
    const { message } = await failure(pool.call("pid", {}, { timeout: 6_000 }), "start_failed");
    assert.match(message, /did not end the request in time/);
  });

  test("a configure may be left or be overdue wherever it is", async (t) => {
    const pool = await started(t, { ...fake(), workers: 1 });
    const silent = { lm: "x", only: 0 };
    const overdue = failure(pool.call("configure", silent, { timeout: 1 }), "deadline_exceeded");
    const aborted = { signal: AbortSignal.timeout(50) };
    await failure(pool.call("configure", silent, aborted), "cancelled");
    await overdue;
    for (let i = 0; i < 2; i++) await failure(pool.call("say", { then: "exit" }), "worker_died");
    const waited = pool.call("configure", silent, { signal: AbortSignal.timeout(1_000) });
    await failure(waited, "cancelled");
  });
});
