export { Client } from "./client.js";
export { BridgeError } from "./errors.js";
export { Pool } from "./pool.js";
export { ChunkStream } from "./stream.js";
