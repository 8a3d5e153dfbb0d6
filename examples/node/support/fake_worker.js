// A worker that does what its host tells it, right or wrong: node fake_worker.js [STDOUT_AT_THE_START]
import { spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { createInterface } from "node:readline";

const READY = '{"id":null,"type":"ready","protocol":1,"limits":{"max_line_bytes":8388608}}\n';
const heard = [];
let leaving = false;

process.stdout.write(process.argv[2] ?? READY);

for await (const line of createInterface({ input: process.stdin })) {
  if (leaving) continue;
  heard.push(line);
  const { id, command, args } = JSON.parse(line);
  if (command === "say") say(id, args);
  if (command === "heard") answer(id, { heard });
  if (command === "configure") configure(id, args);
  if (command === "pid") answer(id, { pid: process.pid });
  if (command === "shutdown" && heard.every((each) => !each.includes('"deaf"'))) break;
}
process.exit(0);

/** Refuses a model called "bad", and gives no answer if another process than `only` was meant. */
function configure(id, args) {
  if (args.lm === "bad") refuse(id);
  else if (args.only === undefined || args.only === process.pid) answer(id, args);
}

/** Writes `text`, with the request's id for `$id`, and then does what `then` says. */
function say(id, { text = "", then }) {
  leaving = then === "leave";
  process.stdout.write(text.replaceAll("$id", id), () => {
    if (then === "leave") process.stdout.write('{"id":null,"type":"bye","reason":"recycle"}\n', () => process.exit(0));
    if (then === "exit") process.exit(3);
    if (then === "die") process.kill(process.pid, "SIGKILL");
    if (then === "close") closeSync(1);
    if (then === "leave a child") {
      spawn("sleep", ["60"], { stdio: ["ignore", "inherit", "ignore"], detached: true }).unref();
      process.exit(4);
    }
  });
}

function answer(id, fields) {
  process.stdout.write(`${JSON.stringify({ id, seq: 0, type: "result", ...fields, done: true })}\n`);
}

function refuse(id) {
  const fields = { id, seq: 0, type: "error", error: "no", code: "invalid_args", retryable: false, done: true };
  process.stdout.write(`${JSON.stringify(fields)}\n`);
}
