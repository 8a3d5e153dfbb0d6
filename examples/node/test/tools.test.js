import assert from "node:assert/strict";
import { test } from "node:test";

import { aborted, drained, fake, shared, started } from "../support/workers.js";

const worker = shared(fake());

/** Says that a tool is called; the second argument ends the request. */
function calling(name, args = {}, rest = "") {
  const call = { type: "tool_call", step: 1, call_id: "c1", name, args, host: true };
  return `{"id":$id,"seq":0,${JSON.stringify(call).slice(1)}\n${rest}`;
}

/** What the worker is answered when it calls the tool `t`, as JSON text. */
async function answerOf(t, name = "t", args = { x: 2 }) {
  const client = await worker();
  const { id: before } = await client.call("heard");
  const stream = client.stream("say", { text: calling(name, args) }, { tools: { t } });
  assert.equal((await stream.next()).value.type, "tool_call");
  for (;;) {
    const { heard } = await client.call("heard");
    const result = heard.find((line) => line.includes(`"tool_result","args":{"target":${before + 1},`));
    if (result === undefined) continue;
    await stream.return();
    const { args } = JSON.parse(result);
    const { target: _, call_id: callId, ...rest } = args;
    assert.equal(callId, "c1");
    return rest;
  }
}

const cycle = {};
cycle.self = cycle;

for (const [name, tool, expected, args] of [
  ["a function", ({ x }) => x + 1, { value: 3 }],
  ["an async function", async ({ x }) => ({ x }), { value: { x: 2 } }],
  ["an object", { run: ({ x }) => x }, { value: 2 }],
  ["a method", { factor: 5, run({ x }) { return x * this.factor; } }, { value: 10 }],
  ["a function that is given nothing", { run: ({ y = 7 }) => y }, { value: 7 }, null],
  ["undefined", () => undefined, { value: null }],
  ["NaN", () => NaN, { value: null }],
  ["unicode", () => "é😀\u2028", { value: "é😀\u2028" }],
  ["what throws", () => { throw new Error("no luck"); }, { error: "no luck" }],
  ["what rejects", async () => { throw new TypeError("no luck"); }, { error: "no luck" }],
  ["an error without words", () => { throw new RangeError(); }, { error: "RangeError" }],
  ["what throws no error", () => { throw "text"; }, { error: "text" }],
  ["what throws nothing", () => { throw undefined; }, { error: "undefined" }],
  ["what throws a thing without text", () => { throw Object.create(null); }, { error: "The tool failed." }],
  ["what gives a function", () => () => 1, { error: "A function is no JSON value." }],
  ["a broken toJSON", () => ({ toJSON() { throw new Error("not today"); } }), { error: "not today" }],
]) {
  test(`a tool may be, or give: ${name}`, async () => {
    assert.deepEqual(await answerOf(tool, "t", args), expected);
  });
}

for (const [name, tool, pattern] of [
  ["a BigInt", () => 1n, /BigInt/],
  ["a cycle", () => cycle, /circular/],
  ["too much", () => "x".repeat(2 ** 23), /more than 8388608 bytes/],
]) {
  test(`what is no JSON is told as an error: ${name}`, async () => {
    const { error } = await answerOf(tool);
    assert.match(error, pattern);
    assert.doesNotMatch(error, /\.js|\bat \w+ \(/); // no stack
  });
}

test("a tool that the request did not declare is answered, too", async () => {
  for (const name of ["other", "toString", "__proto__"]) {
    const answer = await answerOf(() => 1, name);
    assert.deepEqual(answer, { error: `There is no tool called ${name}.` });
  }
});

test("tools are declared beside those of the worker", async (t) => {
  const client = await started(t, fake());
  const args = { country: { type: "string" } };
  const tools = { population: { description: "Inhabitants.", args, required: [], run() {} }, plain() {} };
  await client.stream("nothing", { tools: ["files__*"] }, { tools }).return();
  const { heard } = await client.call("heard");
  assert.deepEqual(JSON.parse(heard[0]).args.tools, [
    "files__*",
    { name: "population", desc: "Inhabitants.", args, required: [] },
    { name: "plain", desc: "", args: {} },
  ]);
  assert.throws(() => client.stream("nothing", {}, { tools: { bad: 5 } }), TypeError);
});

test("tools run before the consumer gets to their chunk, several at a time", async (t) => {
  const client = await started(t, fake());
  const calls = [1, 2, 3].map(
    (i) => `{"id":$id,"seq":${i - 1},"type":"tool_call","call_id":"c${i}","name":"meet","args":{},"host":true}\n`,
  );
  let met;
  const all = new Promise((resolve) => (met = resolve));
  let n = 0;
  const meet = () => {
    if (++n === 3) met();
    return all;
  };
  const stream = client.stream("say", { text: calls.join("") }, { tools: { meet } });
  await all;
  await stream.return();
});

test("a call that the worker runs itself is only a chunk", async (t) => {
  const client = await started(t, fake());
  const text = calling("t", {}, '{"id":$id,"seq":1,"type":"result","done":true}\n').replace('"host":true', '"host":false');
  const { chunks } = await drained(client.stream("say", { text }, { tools: { t: () => assert.fail() } }));
  assert.deepEqual(chunks.map(({ type }) => type), ["tool_call", "result"]);
});

test("tools are told when nobody waits for them any more, and answer in vain", async (t) => {
  const client = await started(t, fake());
  for (const text of [calling("hang"), calling("hang", {}, '{"id":$id,"seq":1,"done":true}\n')]) {
    let given;
    const running = new Promise((resolve) => (given = resolve));
    const stopped = new Promise((resolve) => {
      running.then(({ signal }) => aborted(signal)).then(resolve);
    });
    const hang = async (_, context) => {
      given(context);
      await aborted(context.signal);
      return "late";
    };
    const stream = client.stream("say", { text }, { tools: { hang } });
    assert.equal((await running).callId, "c1");
    if (!text.includes("done")) await stream.return();
    await stopped;
  }
  const { heard } = await client.call("heard");
  assert.ok(!heard.some((line) => line.includes("tool_result")));
});

test("tools that never answer do not outlive their worker", async (t) => {
  const client = await started(t, fake());
  let signal;
  const hang = (_, context) => {
    ({ signal } = context);
    return new Promise(() => {});
  };
  const { error } = await drained(client.stream("say", { text: calling("hang"), then: "exit" }, { tools: { hang } }));
  assert.equal(error.code, "worker_died");
  assert.equal(signal.aborted, true);
});

test("a tool may leave the request that called it", async (t) => {
  const client = await started(t, fake());
  const leave = () => stream.return();
  const stream = client.stream("say", { text: calling("leave") }, { tools: { leave } });
  assert.equal((await stream.next()).value.type, "tool_call");
  assert.equal((await stream.next()).done, true);

  const controller = new AbortController();
  const abort = () => controller.abort();
  const options = { signal: controller.signal, tools: { abort } };
  const { chunks, error } = await drained(client.stream("say", { text: calling("abort") }, options));
  assert.deepEqual([chunks.length, error.code], [1, "cancelled"]);
});
