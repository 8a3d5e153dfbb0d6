// A chain of thought, each line of reasoning as soon as it is complete: node examples/node/chain_of_thought.mjs
import { fileURLToPath } from "node:url";

import { Client } from "dspy-bridge"; // this folder: see package.json

// For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
const script = fileURLToPath(new URL("../streaming.script.jsonl", import.meta.url));
const flags = ["--model", "scripted", "--script", script, "--script-tokens-per-s", "20"];
const argv = [process.env.PYTHON ?? "python3", "-m", "bridge", "serve"];

try {
  const client = await Client.start({ argv, flags });
  const question = "Why is the sky blue?";
  for await (const chunk of client.stream("stream_chain_of_thought", { question })) {
    if (chunk.type === "reasoning_step") console.log(`${chunk.step}. ${chunk.content}`);
    if (chunk.type === "restart") console.log("(once more)");
    if (chunk.type === "final_answer") console.log(chunk.answer);
  }
  await client.close();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
