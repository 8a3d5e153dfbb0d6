// An agent whose tool is an async function of this program: node examples/node/react.mjs
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { Client } from "dspy-bridge"; // this folder: see package.json

const INHABITANTS = { France: 68_000_000, Spain: 49_000_000 };

const tools = {
  population: {
    description: "Inhabitants of a country.",
    args: { country: { type: "string" } },
    async run({ country }) {
      await sleep(10); // a database, say
      if (!(country in INHABITANTS)) throw new Error(`No country is called ${country}.`);
      return INHABITANTS[country];
    },
  },
};

// For real answers: ["--model", "openai/gpt-4o-mini"], and OPENAI_API_KEY in the environment.
const script = fileURLToPath(new URL("../streaming.script.jsonl", import.meta.url));
const flags = ["--model", "scripted", "--script", script];
const argv = [process.env.PYTHON ?? "python3", "-m", "bridge", "serve"];

try {
  const client = await Client.start({ argv, flags });
  const question = "Do more people live in France or in Spain?";
  for await (const chunk of client.stream("stream_react_steps", { question }, { tools })) {
    if (chunk.type === "thought") console.log(`${chunk.step}. ${chunk.content}`);
    if (chunk.type === "observation") console.log(`   ${chunk.name}: ${chunk.content}`);
    if (chunk.type === "final_answer") console.log(chunk.answer);
  }
  await client.close();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
