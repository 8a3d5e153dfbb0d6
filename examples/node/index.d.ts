/**
 * Client for dspy-bridge workers.
 *
 * Numbers are what `JSON.parse` makes of them: integers beyond 2^53 lose digits. Commands that may give such
 * numbers should give them as strings.
 */

// ---- clients -------------------------------------------------------------------------------------------

export interface ClientOptions {
  /** The worker's command line; no shell is involved. Default: `["dspy-bridge", "serve"]`. */
  argv?: readonly string[];
  /** More words for it, such as `["--model", "openai/gpt-4o-mini"]`. */
  flags?: readonly string[];
  /** The worker's folder and whole environment, as `child_process.spawn` takes them. */
  cwd?: string | URL;
  env?: Record<string, string | undefined>;
  /** Milliseconds in which the worker must say that it is ready, an integer. Default: 30,000. */
  readyTimeout?: number;
  /** Told what concerns no request, in a sentence. Default: `process.emitWarning`. */
  onWarning?: (text: string) => void;
}

export interface PoolOptions extends ClientOptions {
  /** How many workers. Default: 2. */
  workers?: number;
}

export interface RequestOptions {
  /** How many chunks may be under way, from 1; a slow consumer holds no more than that. Default: 64. */
  credit?: number;
  /** Milliseconds for the whole request, time in queues included; then it fails with `deadline_exceeded`. */
  timeout?: number;
  /** Cancels the request: it fails with `cancelled`, the signal's reason being the error's `cause`. */
  signal?: AbortSignal;
  /** Functions that the request may call, by name. They are declared to the worker in `args.tools`. */
  tools?: Record<string, Tool | ToolFunction>;
}

export interface PoolRequestOptions extends RequestOptions {
  /** How often to send the request again if its worker died before its first chunk. Default: 0. */
  retries?: number;
}

export interface CloseOptions {
  /** "drain" (default) lets running requests end, "abort" cancels them. */
  mode?: "drain" | "abort";
  /** Milliseconds that a drain may take, an integer; then requests are cancelled. Default: 30,000. */
  grace?: number;
}

/** Any command but those whose args are known. */
type Unlisted<C extends string> = C extends keyof Commands ? never : C;

interface Requests<Options> extends AsyncDisposable {
  /**
   * Sends a request and gives its chunks. It runs from the call on, up to a window of chunks ahead of the
   * consumer; leaving the loop cancels it. All failures are told by the stream, except args that are no JSON
   * (`TypeError`) and numbers out of range (`RangeError`), which throw.
   */
  stream<C extends keyof Commands>(
    command: C,
    args?: Commands[C]["args"],
    options?: Options,
  ): ChunkStream<Commands[C]["chunk"] | OtherChunk>;
  stream<T extends AnyChunk = Chunk, C extends string = string>(
    command: Unlisted<C>,
    args?: object,
    options?: Options,
  ): ChunkStream<T>;

  /** Sends a request and gives its last chunk, the result; those before it are dropped. */
  call<C extends keyof Commands>(
    command: C,
    args?: Commands[C]["args"],
    options?: Options,
  ): Promise<Commands[C]["result"]>;
  call<T extends AnyChunk = ResultChunk, C extends string = string>(
    command: Unlisted<C>,
    args?: object,
    options?: Options,
  ): Promise<T>;

  /**
   * Takes no new requests (`closed`) and is fulfilled once every process is gone. It may be called again, with
   * "abort" if a drain takes too long. Workers also leave when this
   * process ends, which those that have nothing to do do not keep from ending.
   */
  close(options?: CloseOptions): Promise<void>;
}

/** One worker. When it dies, its requests and all later ones fail with `worker_died`. */
export class Client implements Requests<RequestOptions> {
  private constructor();
  /**
   * Starts a worker and waits until it is ready; fails with `start_failed`, or for options that can not be meant
   * with a `TypeError` or `RangeError`.
   */
  static start(options?: ClientOptions): Promise<Client>;
  /** What the worker said of itself when it was ready. */
  readonly info: ReadyChunk;
  /** The worker's process, as long as it is up. */
  readonly pid: number | undefined;
  stream: Requests<RequestOptions>["stream"];
  call: Requests<RequestOptions>["call"];
  close(options?: CloseOptions): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Several workers. A request goes to the one with the fewest. A worker that dies is started again: at once,
 * if that fails after 100 ms, then after twice as long each time, up to 10 s. One that leaves by itself, to be
 * recycled, is replaced while it ends what it has. One that has not ended a request two seconds after its
 * timeout is taken for hung: it is killed, and its other requests fail with `worker_died`. Requests made while none is ready
 * wait for one up to 30 s, or their timeout, and then fail with `start_failed`. `configure` goes to all workers,
 * those included that are started later.
 */
export class Pool implements Requests<PoolRequestOptions> {
  private constructor();
  /** Starts all workers and waits until they are ready; fails with `start_failed` if one can not be started. */
  static start(options?: PoolOptions): Promise<Pool>;
  /** How many workers take requests now. */
  readonly ready: number;
  /** The workers' processes that are up. */
  readonly pids: number[];
  stream: Requests<PoolRequestOptions>["stream"];
  call: Requests<PoolRequestOptions>["call"];
  close(options?: CloseOptions): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The chunks of one request in order, the terminal one included. */
export class ChunkStream<T extends AnyChunk = Chunk> implements AsyncIterableIterator<T> {
  private constructor();
  /** Rejected with a `BridgeError` if the request failed, after the chunks that had arrived. */
  next(): Promise<IteratorResult<T, undefined>>;
  /** Cancels the request and drops what has arrived, at once; `break` in a loop does the same. */
  return(): Promise<IteratorReturnResult<undefined>>;
  [Symbol.asyncIterator](): this;
  [Symbol.asyncDispose](): Promise<void>;
}

// ---- tools ---------------------------------------------------------------------------------------------

/** Runs beside everything else. What it gives must be JSON (undefined is null); what it throws is told in words. */
export type ToolFunction = (args: any, context: ToolContext) => unknown;

export interface Tool {
  /** What the model is told about it. */
  description?: string;
  /** A JSON Schema for each argument. */
  args?: Record<string, object>;
  /** Arguments that must be there; if left out, all that have no `default`. */
  required?: readonly string[];
  run: ToolFunction;
}

export interface ToolContext {
  callId: string;
  /** Aborted as soon as the request has ended and the answer is of no use any more. */
  signal: AbortSignal;
}

// ---- errors --------------------------------------------------------------------------------------------

export class BridgeError extends Error {
  constructor(code: ErrorCode, message: string, options?: BridgeErrorOptions);
  readonly name: "BridgeError";
  readonly code: ErrorCode;
  /** Whether the same request may succeed later. */
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  /** Depends on the code: `path`, `model`, `status`, `exit_code`, `signal` … */
  readonly details: Record<string, unknown> | undefined;
}

export interface BridgeErrorOptions {
  retryable?: boolean;
  retryAfterMs?: number;
  details?: Record<string, unknown>;
  cause?: unknown;
}

/** The client's own codes, then the worker's; a newer worker may have more. */
export type ErrorCode =
  | "cancelled"
  | "closed"
  | "deadline_exceeded"
  | "protocol_error"
  | "start_failed"
  | "worker_died"
  | "worker_hung"
  | "duplicate_id"
  | "internal"
  | "invalid_args"
  | "invalid_request"
  | "io_error"
  | "limit_exceeded"
  | "line_too_long"
  | "lm_auth"
  | "lm_billing"
  | "lm_context_window"
  | "lm_error"
  | "lm_invalid_request"
  | "lm_not_configured"
  | "lm_output_invalid"
  | "lm_rate_limit"
  | "lm_timeout"
  | "lm_unavailable"
  | "overloaded"
  | "parse_error"
  | "program_error"
  | "shutting_down"
  | "tool_error"
  | "tool_timeout"
  | "unknown_command"
  | "unknown_lm"
  | "unknown_program"
  | "unknown_tool"
  | (string & {});

// ---- chunks --------------------------------------------------------------------------------------------

/** What every chunk of a request has. */
export interface AnyChunk {
  id: number;
  seq: number;
  type: string;
  done?: true;
}

/** Any chunk of the worker's own commands; `switch (chunk.type)` tells which. */
export type Chunk =
  | CompleteChunk
  | FinalAnswerChunk
  | ItemErrorChunk
  | ObservationChunk
  | PongChunk
  | PredictionChunk
  | ReasoningStepChunk
  | RestartChunk
  | ResultChunk
  | ThinkingChunk
  | ThoughtChunk
  | TokenChunk
  | ToolCallChunk
  | OtherChunk;

/**
 * A chunk of a type that is not listed here, as a newer worker may send it: what is left when all others have
 * been told apart. (TypeScript has no words for "any other string", so its `type` is a pattern that no listed
 * one fits.) For commands of your own give the chunks as a type argument, or declare them in `Commands`.
 */
export interface OtherChunk extends AnyChunk {
  type: `?${string}`;
  [field: string]: unknown;
}

/** What LM calls cost; answers from a cache count nothing. */
export interface Usage {
  calls: number;
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
}

/** Field names and values. */
export type Fields = Record<string, any>;

/** The whole prediction, or of a batch that of one item, which has `index`, `total`, `input` and `progress`. */
export interface PredictionChunk extends AnyChunk {
  type: "prediction";
  output: Fields;
  usage: Usage;
  index?: number;
  total?: number;
  input?: Fields;
  /** Item chunks sent, this one included, of all items: up to 1. */
  progress?: number;
  /** The answers are canned. */
  scripted?: true;
}

export interface BatchPredictionChunk extends PredictionChunk {
  index: number;
  total: number;
  input: Fields;
  progress: number;
}

/** One item of a batch failed; the others go on. */
export interface ItemErrorChunk extends AnyChunk {
  type: "error";
  index: number;
  total: number;
  input: Fields;
  error: string;
  code: ErrorCode;
  retryable: boolean;
  retry_after_ms?: number;
  details?: Record<string, unknown>;
  progress: number;
  usage: Usage;
}

/** The end of a batch, or of a command that says nothing else at its end. */
export interface CompleteChunk extends AnyChunk {
  type: "complete";
  done: true;
  total?: number;
  succeeded?: number;
  failed?: number;
  elapsed_ms?: number;
  usage?: Usage;
  stopped?: boolean;
  scripted?: true;
}

export interface BatchCompleteChunk extends CompleteChunk {
  total: number;
  succeeded: number;
  failed: number;
  elapsed_ms: number;
  usage: Usage;
}

/** More of an output field's value; an agent's has the `step` it belongs to. */
export interface TokenChunk extends AnyChunk {
  type: "token";
  field: string;
  delta: string;
  step?: number;
}

/** What was streamed so far, or of this step, is void. */
export interface RestartChunk extends AnyChunk {
  type: "restart";
  step?: number;
}

export interface ThinkingChunk extends AnyChunk {
  type: "thinking";
  status: "started" | "answering";
}

/** One line of reasoning; `step` counts from 1. */
export interface ReasoningStepChunk extends AnyChunk {
  type: "reasoning_step";
  step: number;
  content: string;
}

export interface FinalAnswerChunk extends AnyChunk {
  type: "final_answer";
  done: true;
  answer: any;
  output: Fields;
  full_reasoning: string;
  usage: Usage;
  /** Of an agent. */
  trajectory?: Step[];
  scripted?: true;
}

export interface Step {
  step: number;
  thought: string;
  calls: ToolUse[];
}

export interface ToolUse {
  call_id: string;
  name: string;
  args: Fields;
  content: unknown;
  is_error: boolean;
  omitted?: true;
}

export interface ThoughtChunk extends AnyChunk {
  type: "thought";
  step: number;
  content: string;
}

/** A tool is called; if `host` is true it is a function of the request, which the client runs. */
export interface ToolCallChunk extends AnyChunk {
  type: "tool_call";
  step: number;
  call_id: string;
  name: string;
  args: Fields;
  host: boolean;
}

/** What a tool gave or, if `is_error`, why it gave nothing. */
export interface ObservationChunk extends AnyChunk {
  type: "observation";
  step: number;
  call_id: string;
  name: string;
  content: unknown;
  is_error: boolean;
}

export interface PongChunk extends AnyChunk {
  type: "pong";
  done: true;
  /** The worker's clock in seconds since 1970. */
  time: number;
  data?: unknown;
}

export interface ResultChunk extends AnyChunk {
  type: "result";
  done: true;
  [field: string]: unknown;
}

/** What an LM name stands for. */
export interface ConfigureChunk extends AnyChunk {
  type: "result";
  done: true;
  name: string;
  model: string;
  provider: string;
  adapter: string;
  scripted?: true;
}

export interface ReadyChunk {
  id: null;
  type: "ready";
  protocol: number;
  version: string;
  pid: number;
  limits: Record<string, number>;
  commands: string[];
}

// ---- commands ------------------------------------------------------------------------------------------

/** The worker's own commands. Declare more by merging: `interface Commands { "my.command": { args: …; … } }`. */
export interface Commands {
  ping: { args: { data?: unknown }; chunk: PongChunk; result: PongChunk };
  describe: { args: { name?: string | null }; chunk: ResultChunk; result: ResultChunk };
  stats: { args: Record<string, never>; chunk: ResultChunk; result: ResultChunk };
  configure: {
    args: { lm?: LmSpec | null; name?: string; adapter?: Adapter | null };
    chunk: ConfigureChunk;
    result: ConfigureChunk;
  };
  stream_predict_batch: {
    args: BatchArgs;
    chunk: BatchPredictionChunk | ItemErrorChunk | BatchCompleteChunk;
    result: BatchCompleteChunk;
  };
  stream_predict: {
    args: PredictArgs;
    chunk: TokenChunk | RestartChunk | PredictionChunk;
    result: PredictionChunk;
  };
  stream_chain_of_thought: {
    args: ReasoningArgs;
    chunk: ThinkingChunk | ReasoningStepChunk | TokenChunk | RestartChunk | FinalAnswerChunk;
    result: FinalAnswerChunk;
  };
  stream_react_steps: {
    args: AgentArgs;
    chunk: ThoughtChunk | ToolCallChunk | ObservationChunk | TokenChunk | RestartChunk | FinalAnswerChunk;
    result: FinalAnswerChunk;
  };
}

export type Adapter = "chat" | "json" | "xml";

/** Which model answers, and how it is asked. */
export interface CallArgs {
  /** A configured name, or a model of its own. */
  lm?: string | LmSpec | null;
  adapter?: Adapter | null;
  config?: CallConfig | null;
}

export interface BatchArgs extends CallArgs {
  items: readonly Fields[];
  /** Either this or `program`. */
  signature?: Signature | null;
  program?: string | null;
  module?: "predict" | "chain_of_thought";
  concurrency?: number;
  order?: "input" | "completion";
  max_errors?: number | null;
}

export interface ReasoningArgs extends CallArgs {
  /** Default: `"question -> answer"`. */
  signature?: Signature;
  inputs?: Fields;
  /** Short for `inputs: { question }`. */
  question?: string;
  tokens?: boolean;
}

export interface PredictArgs extends ReasoningArgs {
  module?: "predict" | "chain_of_thought";
  program?: string | null;
}

export interface AgentArgs extends ReasoningArgs {
  /** Names of tools of the worker's; functions go into the request's options. */
  tools?: readonly string[];
  max_iters?: number;
  tool_timeout_ms?: number;
  agent?: "react" | "native";
}

export type Signature = string | SignatureSpec;

export interface SignatureSpec {
  inputs: readonly string[] | Fields;
  outputs: readonly string[] | Fields;
  instructions?: string | null;
}

export interface CallConfig {
  temperature?: number | null;
  max_tokens?: number | null;
  top_p?: number | null;
  stop?: string | readonly string[] | null;
  seed?: number | null;
  presence_penalty?: number | null;
  frequency_penalty?: number | null;
  reasoning_effort?: string | null;
  rollout_id?: number | null;
  cache?: boolean | null;
}

export interface LmSpec extends Omit<CallConfig, "rollout_id"> {
  model: string;
  api_key?: string | null;
  api_base?: string | null;
  api_version?: string | null;
  model_type?: "chat" | "responses" | "text";
  timeout_s?: number | null;
  num_retries?: number | null;
  /** For the model "scripted". */
  script?: readonly object[] | null;
  tokens_per_s?: number | null;
}
