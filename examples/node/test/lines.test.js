import assert from "node:assert/strict";
import { test } from "node:test";

import { LineReader } from "../src/lines.js";

const TEXT = '{"a":"é€😀\u2028\u2029\u0085"}\n\n{"b":"\u0000"}\r\n{"c":[]}\n';
const LINES = ['{"a":"é€😀\u2028\u2029\u0085"}', "", '{"b":"\u0000"}\r', '{"c":[]}'];

test("lines are the same wherever reads cut them", () => {
  const bytes = Buffer.from(TEXT);
  for (let first = 0; first <= bytes.length; first++) {
    for (let second = first; second <= bytes.length; second++) {
      const reader = new LineReader(1000);
      const parts = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
      assert.deepEqual(parts.flatMap((part) => reader.push(part)), LINES);
    }
  }
});

test("what is not ended by LF is no line", () => {
  const reader = new LineReader(1000);
  assert.deepEqual(reader.push(Buffer.from('{"a":1}\n{"b"')), ['{"a":1}']);
  assert.deepEqual(reader.push(Buffer.from(":2}")), []);
});

test("only the first line may begin with a byte order mark", () => {
  const reader = new LineReader(1000);
  assert.deepEqual(reader.push(Buffer.from("\ufeff1\n")), ["1"]);
  assert.deepEqual(reader.push(Buffer.from("\ufeff1\n")), ["\ufeff1"]);
});

test("a line without end is refused, not kept", () => {
  const reader = new LineReader(100);
  reader.push(Buffer.alloc(100, "x"));
  assert.throws(() => reader.push(Buffer.from("x")), RangeError);
});

test("long lines take time in proportion to their length", () => {
  const read = Buffer.alloc(2 ** 16, "x");
  const time = (reads) => {
    const reader = new LineReader(2 ** 30);
    const before = performance.now();
    for (let i = 0; i < reads; i++) reader.push(read);
    assert.equal(reader.push(Buffer.from("\n"))[0].length, reads * read.length);
    return performance.now() - before;
  };
  time(160);
  assert.ok(time(1600) < 100 * time(160)); // 10 times as long; joined at each read it would be 1,600
});
