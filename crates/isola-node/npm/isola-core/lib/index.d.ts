/// <reference types="node" />

/** A value that a guest gives. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | JsonValue[]
  | { [key: string]: JsonValue };

/** The same with `bigints: true`: integers that a number cannot hold. */
export type JsonValueWithBigInt =
  | null
  | boolean
  | number
  | bigint
  | string
  | JsonValueWithBigInt[]
  | { [key: string]: JsonValueWithBigInt };

/** A value that can be given to a guest. */
export type JsonInput =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly JsonInput[]
  | { readonly [key: string]: JsonInput | undefined }
  | { toJSON(): unknown };

/** An interpreter: CPython 3.14, or JavaScript on SpiderMonkey. */
export type RuntimeName = "python" | "js";

export type Permission = "read" | "write" | "read-write";

/** A host folder that the guest sees. */
export interface MountConfig {
  /** The folder of the host. */
  host: string;
  /** Where the guest sees it: an absolute path. */
  guest: string;
  /** What the guest may do with directories. Default: `"read"`. */
  dir_perms?: Permission;
  /** What the guest may do with files. Default: `"read"`. */
  file_perms?: Permission;
}

/** Limits of a sandbox and of each call in it. Sizes are in bytes. */
export interface Limits {
  /** All memory of the sandbox. Default: 256 MiB. */
  maxMemory?: number;
  /** CPU time of a call; `Infinity` for none. Default: 30,000. */
  cpuTimeoutMs?: number;
  /** Wall time of a call; `Infinity` for none. Default: none. */
  timeoutMs?: number;
  /** One value, as JSON. Default: 16 MiB. */
  maxValueSize?: number;
  /** All output of a call. Default: 16 MiB. */
  maxOutputSize?: number;
  /** How deep Python calls may nest. Default: 1,000. */
  maxRecursion?: number;
  /** Hostcalls under way at once. Default: 4,096. */
  maxPendingHostcalls?: number;
  /** What the host holds for the guest. Default: 64 MiB. */
  maxHeldMemory?: number;
  /** Open files, streams and timers. Default: 1,024. */
  maxHandles?: number;
  /** HTTP requests under way at once. Default: 64. */
  maxRequests?: number;
}

/** What a build tells while it works. */
export type BuildProgress =
  | { phase: "download"; received: number; total?: number }
  | { phase: "compile" };

export interface TemplateConfig {
  /** The runtime, or the folder that holds it, instead of one that is found. */
  runtimePath?: string;
  /** The release of the runtime. Default: that of this package. */
  version?: string;
  /** Where compiled templates are kept; `null` keeps none. */
  cacheDir?: string | null;
  /** The memory limit of each sandbox, in bytes. */
  maxMemory?: number;
  /** Code that runs before user scripts. */
  prelude?: string;
  /** The library folder of a runtime that has one outside of itself. */
  runtimeLibDir?: string;
  mounts?: MountConfig[];
  env?: Record<string, string>;
  limits?: Limits;
  /** Where releases are downloaded from. */
  downloadUrl?: string;
  /** Where downloaded runtimes are kept. Default: `~/.cache/isola/runtimes`. */
  runtimesDir?: string;
  /** The SHA-256 digest that the downloaded archive must have. */
  runtimeSha256?: string;
  /** Is told of a download, and of compiling. */
  onProgress?: (progress: BuildProgress) => void;
}

/** A request of a guest. */
export interface HttpRequest<Body = Buffer | null> {
  method: string;
  /** Absolute. */
  url: string;
  /** Names in lower case; repeated fields are joined. */
  headers: Record<string, string>;
  body: Body;
  /** Every field by itself, in the order in which the guest gave them. */
  headerList: [name: string, value: string][];
  /** Aborted when the guest waits for the response no more. */
  readonly signal: AbortSignal;
}

/** What a guest is answered. */
export interface HttpResponse {
  status: number;
  headers?: Record<string, string | string[]> | Iterable<[string, string]> | null;
  body?: Uint8Array | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array> | null;
}

export type HttpHandler = (req: HttpRequest) => Promise<HttpResponse>;
export type StreamingHttpHandler = (
  req: HttpRequest<ReadableStream<Uint8Array> | null>,
) => Promise<HttpResponse>;

interface CommonSandboxConfig {
  /** The memory limit of this sandbox, in bytes. */
  maxMemory?: number;
  mounts?: MountConfig[];
  env?: Record<string, string>;
  limits?: Limits;
  /** Functions that the guest can call, by name. */
  hostcalls?: Record<string, (payload: JsonValue) => unknown>;
  /** Integers that a number cannot hold arrive as `bigint`. Default: false. */
  bigints?: boolean;
}

type HttpConfig =
  | {
      /** Outgoing HTTP: `true` for Node's `fetch`, or a policy of your own. Default: none. */
      http?: boolean | HttpHandler | null;
      /** The older name of `http`. */
      httpHandler?: boolean | HttpHandler | null;
      /** How a handler gets the body of a request. */
      httpRequestBody?: "buffer";
    }
  | {
      http?: boolean | StreamingHttpHandler | null;
      httpHandler?: boolean | StreamingHttpHandler | null;
      httpRequestBody: "stream";
    };

export type SandboxConfig = CommonSandboxConfig & HttpConfig;

/** Options of one call. */
export interface CallOptions {
  /** Wall time, waiting included. */
  timeoutMs?: number;
  /** CPU time; waiting does not count. */
  cpuTimeoutMs?: number;
  /** Stops the guest, and closes the sandbox. */
  signal?: AbortSignal | null;
}

/** What happens during a call. */
export type Event<Value = JsonValue> =
  | { type: "result"; data: Value }
  | { type: "end"; data: Value | null }
  | { type: "stdout"; data: string }
  | { type: "stderr"; data: string }
  | { type: "error"; data: string; error: IsolaError }
  | { type: "log"; data: string; level: "debug" | "info" | "warning" | "error" };

/** An argument with a name. */
export class Arg {
  constructor(value: JsonInput, name?: string | null);
  readonly value: JsonInput;
  readonly name: string | null;
}

/** Positional arguments, and `Arg`s among them. */
export type Args = readonly (JsonInput | Arg)[];
/** Named arguments. */
export type Kwargs = { readonly [name: string]: JsonInput };

/** Builds a template in a context of its own. */
export function buildTemplate(
  runtime: RuntimeName,
  config?: TemplateConfig,
): Promise<SandboxTemplate>;

/** Builds templates, until it is closed. */
export class SandboxContext {
  constructor();
  buildTemplate(runtime: RuntimeName, config?: TemplateConfig): Promise<SandboxTemplate>;
  /** Ends the context. Templates that it built live on. */
  close(): void;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A compiled interpreter, from which sandboxes are created. */
export class SandboxTemplate {
  private constructor();
  create(config: SandboxConfig & { bigints: true }): Promise<Sandbox<JsonValueWithBigInt>>;
  create(config?: SandboxConfig): Promise<Sandbox>;
  /** Reads a snapshot that `Snapshot.save` wrote, here or in another process. */
  loadSnapshot(path: string): Promise<Snapshot>;
  /** A started sandbox that goes on from a snapshot, or from a file with one. */
  restore(
    snapshot: Snapshot | string,
    config: SandboxConfig & { bigints: true },
  ): Promise<Sandbox<JsonValueWithBigInt>>;
  restore(snapshot: Snapshot | string, config?: SandboxConfig): Promise<Sandbox>;
}

/** A running interpreter as it was at one moment: its imports, globals, generators. */
export class Snapshot {
  private constructor();
  readonly runtime: RuntimeName;
  /** The size of the interpreter's memory, in bytes. */
  readonly memorySize: number;
  /** What the snapshot itself takes in memory, in bytes. */
  readonly residentSize: number;
  /**
   * Writes it to a file, whole or not at all, and gives the file's size. The file
   * holds whatever the guest knows; only its owner may read it.
   */
  save(path: string): Promise<number>;
}

/** Runs guest code inside of an isolated interpreter, one call at a time. */
export class Sandbox<Value = JsonValue> {
  private constructor();
  /** To be called once, before anything else. */
  start(options?: CallOptions): Promise<void>;
  /** Runs source code at the top level; `name` stands in tracebacks. */
  loadScript(code: string, options?: CallOptions & { name?: string }): Promise<void>;
  /** Calls a function of a script, and gives its result. */
  run(
    name: string,
    args?: Args | null,
    kwargs?: Kwargs | null,
    options?: CallOptions,
  ): Promise<Value | null>;
  /** Calls a function, and gives what happens. Leaving the loop stops the guest. */
  runStream(
    name: string,
    args?: Args | null,
    kwargs?: Kwargs | null,
    options?: CallOptions,
  ): AsyncGenerator<Event<Value>, void, undefined>;
  /**
   * Ends the interpreter in order, and closes the sandbox. A Python guest runs what is
   * registered with `atexit`, finalizers and `__del__`, as `python3` does at its end.
   * `close` runs no code of the guest.
   */
  finish(options?: CallOptions): Promise<void>;
  /** The same, and gives what happens. */
  finishStream(options?: CallOptions): AsyncGenerator<Event<Value>, void, undefined>;
  /** Copies the interpreter as it is; the sandbox goes on. */
  snapshot(): Promise<Snapshot>;
  /** Sandboxes that go on from where this one is, each on its own, started. */
  fork(count?: number): Promise<Sandbox<Value>[]>;
  /** Stops what runs, and frees the guest. */
  close(): void;
  /** The same; resolves when the guest is gone. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** A guest's exception. All of it is the guest's choice. */
export interface GuestException {
  name: string;
  message: string;
  traceback: string;
}

export type ErrorCode =
  | "aborted"
  | "busy"
  | "closed"
  | "cpu_time_limit"
  | "crash"
  | "download_failed"
  | "download_refused"
  | "guest_exception"
  | "handle_limit"
  | "hostcall_failed"
  | "internal"
  | "invalid_argument"
  | "memory_limit"
  | "not_pending"
  | "not_running"
  | "output_limit"
  | "recursion_limit"
  | "snapshot_refused"
  | "value_size_limit"
  | "wall_time_limit";

/** The base of all errors of this package. */
export class IsolaError extends Error {
  /** Stable: programs may depend on it. */
  readonly code: ErrorCode;
  /** The guest's exception, if there is one behind the error. */
  readonly exception?: GuestException;
}
/** The caller's signal ended the call; `cause` is its reason. */
export class AbortError extends IsolaError {}
/** The sandbox is running another call. */
export class BusyError extends IsolaError {}
/** The sandbox or context is closed. */
export class ClosedError extends IsolaError {}
/** The interpreter crashed. */
export class CrashError extends IsolaError {}
/** A runtime could not be downloaded, or was refused. */
export class DownloadError extends IsolaError {}
/** User code threw. */
export class GuestError extends IsolaError {}
/** A hostcall failed, and user code did not catch it. */
export class HostcallError extends IsolaError {}
/** A bug of isola, or trouble with the machine. */
export class InternalError extends IsolaError {}
/** An argument or option that cannot be. */
export class InvalidArgumentError extends IsolaError {}
/** A limit was hit; `code` says which. */
export class LimitError extends IsolaError {}
/** The sandbox was started before. */
export class NotPendingError extends IsolaError {}
/** The sandbox was not started. */
export class NotRunningError extends IsolaError {}
/** A sandbox that cannot be copied, or a snapshot that cannot be restored here. */
export class SnapshotError extends IsolaError {}
