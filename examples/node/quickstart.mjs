// A DSPy batch from Node, no packages needed: node examples/node/quickstart.mjs
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const path = (name) => new URL(`../${name}`, import.meta.url).pathname;
const items = readFileSync(path("quickstart.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));

// For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
const flags = ["--model", "scripted", "--script", path("quickstart.script.jsonl")];
const worker = spawn(process.env.PYTHON ?? "python3", ["-m", "bridge", "serve", ...flags], {
  stdio: ["pipe", "pipe", "inherit"],
});

const request = {
  id: "r1",
  command: "stream_predict_batch",
  args: { signature: "text -> completion", items },
};
worker.on("error", (error) => console.error(`The worker can not be started: ${error.message}`));
worker.stdin.on("error", () => {}); // it left before it read the request: said below
worker.stdin.end(JSON.stringify(request) + "\n"); // no more requests: it answers this one and leaves

let done = false;
for await (const line of createInterface({ input: worker.stdout })) {
  const chunk = JSON.parse(line);
  if (chunk.type === "prediction") {
    console.log(`[${chunk.index + 1}/${chunk.total}] ${chunk.output.completion}`);
  } else if (chunk.type === "error") {
    console.error(`error: ${chunk.error}`);
  }
  if (chunk.done) {
    done = true;
    console.log(`${chunk.type}: ${chunk.succeeded ?? 0} succeeded`);
  }
}
if (!done) {
  console.error("The worker ended before it had answered.");
  process.exitCode = 1;
}
