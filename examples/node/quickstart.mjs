// A DSPy batch from Node, no packages needed: node examples/node/quickstart.mjs
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { Client } from "dspy-bridge"; // this folder: see package.json

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const items = readFileSync(path("quickstart.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));

// For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
const flags = ["--model", "scripted", "--script", path("quickstart.script.jsonl")];
const argv = [process.env.PYTHON ?? "python3", "-m", "bridge", "serve"];

try {
  const client = await Client.start({ argv, flags });
  for await (const chunk of client.stream("stream_predict_batch", { signature: "text -> completion", items })) {
    if (chunk.type === "prediction") console.log(`[${chunk.index + 1}/${chunk.total}] ${chunk.output.completion}`);
    if (chunk.type === "error") console.error(`error: ${chunk.error}`);
    if (chunk.type === "complete") console.log(`complete: ${chunk.succeeded} succeeded`);
  }
  await client.close();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
