import { toJson } from "./json.js";

/** The tools as a request declares them: `{name, desc, args, required}`. */
export function declarations(tools) {
  return Object.entries(tools).map(([name, tool]) => {
    if (typeof tool !== "function" && typeof tool?.run !== "function") {
      throw new TypeError(`The tool ${name} is neither a function nor an object with a function "run".`);
    }
    return { name, desc: tool.description ?? "", args: tool.args ?? {}, required: tool.required };
  });
}

/**
 * Runs the tool that a `tool_call` chunk names. Gives the answer as a member of a JSON object, `"value":…` or
 * `"error":…`, and never fails.
 */
export async function answer(tools, chunk, signal) {
  try {
    if (!Object.hasOwn(tools, chunk.name)) throw new Error(`There is no tool called ${chunk.name}.`);
    const tool = tools[chunk.name];
    const given = [chunk.args ?? {}, { callId: chunk.call_id, signal }];
    const value = await (typeof tool === "function" ? tool(...given) : tool.run(...given));
    return `"value":${toJson(value === undefined ? null : value)}`;
  } catch (error) {
    return `"error":${JSON.stringify(textOf(error))}`;
  }
}

/** What a model may read of a failure: its message, never the stack. */
function textOf(error) {
  try {
    return String(error instanceof Error ? error.message || error.name : error);
  } catch {
    return "The tool failed.";
  }
}
