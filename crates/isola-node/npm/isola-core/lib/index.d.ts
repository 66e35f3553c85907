/// <reference types="node" />

/** A value from a guest. */
export type JsonValue =
  null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

/** A value from a guest with `bigints: true`: integers beyond the safe range are `bigint`. */
export type JsonValueWithBigInt =
  | null
  | boolean
  | number
  | bigint
  | string
  | JsonValueWithBigInt[]
  | { [key: string]: JsonValueWithBigInt };

/** A value that can be passed to a guest. */
export type JsonInput =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly JsonInput[]
  | { readonly [key: string]: JsonInput | undefined }
  | { toJSON(): unknown };

/**
 * An interpreter: CPython 3.14, the same with packages for data such as numpy and pandas
 * (`npm install isola-core-runtime-python-data`), or JavaScript on SpiderMonkey.
 */
export type RuntimeName = 'python' | 'python-data' | 'js';

export type Permission = 'read' | 'write' | 'read-write';

/** A host directory that is mounted into the sandbox. */
export interface MountConfig {
  /** The path of the directory on the host. */
  host: string;
  /** The absolute path of the mount point in the sandbox. */
  guest: string;
  /** The guest's permissions on directories. Default: `"read"`. */
  dir_perms?: Permission;
  /** The guest's permissions on files. Default: `"read"`. */
  file_perms?: Permission;
}

/** Limits of a sandbox and of each call in it. Sizes are in bytes. */
export interface Limits {
  /** The total memory of the sandbox. Default: 256 MiB. */
  maxMemory?: number;
  /** The CPU time of a call, in milliseconds; `Infinity` for no limit. Default: 30,000. */
  cpuTimeoutMs?: number;
  /** The wall time of a call, in milliseconds; `Infinity` for no limit. Default: no limit. */
  timeoutMs?: number;
  /** The size of one value, as JSON. Default: 16 MiB. */
  maxValueSize?: number;
  /** The total output of a call. Default: 16 MiB. */
  maxOutputSize?: number;
  /** The maximum depth of nested Python calls. Default: 1,000. */
  maxRecursion?: number;
  /** The maximum number of concurrent hostcalls. Default: 4,096. */
  maxPendingHostcalls?: number;
  /** The memory that the host holds on behalf of the guest. Default: 64 MiB. */
  maxHeldMemory?: number;
  /** The size of the sandbox's own files; 0 for none. Default: 64 MiB. */
  maxStorage?: number;
  /** The maximum number of open files, streams and timers. Default: 1,024. */
  maxHandles?: number;
  /** The maximum number of concurrent HTTP requests. Default: 64. */
  maxRequests?: number;
}

/** A progress report of a build. */
export type BuildProgress =
  { phase: 'download'; received: number; total?: number } | { phase: 'compile' };

/** The options that determine the runtime. */
export interface RuntimeOptions {
  /** The runtime or the directory that holds it, instead of searching for one. */
  runtimePath?: string;
  /** The release of the runtime. Default: that of this package. */
  version?: string;
  /** The library directory of a runtime that does not contain its own. */
  runtimeLibDir?: string;
  /** The base URL from which releases are downloaded. */
  downloadUrl?: string;
  /** The directory of downloaded runtimes. Default: `~/.cache/isola/runtimes`. */
  runtimesDir?: string;
  /** The SHA-256 digest that the downloaded archive must have. */
  runtimeSha256?: string;
  /** Called with the progress of a download, and when compiling starts. */
  onProgress?: (progress: BuildProgress) => void;
}

/** A resolved runtime: the one that `buildTemplate` would use. */
export interface RuntimeConfig {
  runtime: RuntimeName;
  version: string;
  /** The path of the runtime, a file. */
  runtimePath: string;
  /** The library directory that was given. */
  runtimeLibDir?: string;
}

export interface TemplateConfig extends RuntimeOptions {
  /** The directory of compiled templates; `null` disables the cache. */
  cacheDir?: string | null;
  /** The memory limit of each sandbox, in bytes. */
  maxMemory?: number;
  /** The size of the files of each sandbox, in bytes; 0 for none. */
  maxStorage?: number;
  /** Code that runs before user scripts. */
  prelude?: string;
  mounts?: MountConfig[];
  env?: Record<string, string>;
  limits?: Limits;
  /** Memory of a sandbox that has ended is used for another one. Default: true. */
  reuseMemory?: boolean;
}

/** A request of a guest. */
export interface HttpRequest<Body = Buffer | null> {
  method: string;
  /** The absolute URL. */
  url: string;
  /** Names in lower case; repeated fields are joined. */
  headers: Record<string, string>;
  body: Body;
  /** The header fields one by one, in the guest's order. */
  headerList: [name: string, value: string][];
  /** Aborted when the guest no longer waits for the response. */
  readonly signal: AbortSignal;
}

/** The response to a guest's request. */
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
  /** The size of this sandbox's files, in bytes; 0 for none. */
  maxStorage?: number;
  mounts?: MountConfig[];
  env?: Record<string, string>;
  /** The arguments after the script's name in `sys.argv`, and in `scriptArgs` in JavaScript. */
  arguments?: readonly string[];
  limits?: Limits;
  /** Functions that the guest can call, by name. */
  hostcalls?: Record<string, (payload: JsonValue) => unknown>;
  /** Integers beyond the safe range arrive as `bigint`. Default: false. */
  bigints?: boolean;
}

type HttpConfig =
  | {
      /** Outgoing HTTP: `true` for Node's `fetch`, or a handler. Default: no HTTP. */
      http?: boolean | HttpHandler | null;
      /** The older name of `http`. */
      httpHandler?: boolean | HttpHandler | null;
      /** The form in which a handler receives the body of a request. */
      httpRequestBody?: 'buffer';
    }
  | {
      http?: boolean | StreamingHttpHandler | null;
      httpHandler?: boolean | StreamingHttpHandler | null;
      httpRequestBody: 'stream';
    };

export type SandboxConfig = CommonSandboxConfig & HttpConfig;

/** Options of one call. */
export interface CallOptions {
  /** The limit of wall time in milliseconds, waiting included. */
  timeoutMs?: number;
  /** The limit of CPU time in milliseconds; waiting does not count. */
  cpuTimeoutMs?: number;
  /** A signal that stops the guest and closes the sandbox. */
  signal?: AbortSignal | null;
}

/** An event of a call. */
export type Event<Value = JsonValue> =
  | { type: 'result'; data: Value }
  | { type: 'end'; data: Value | null }
  | { type: 'stdout'; data: string }
  | { type: 'stderr'; data: string }
  | { type: 'error'; data: string; error: IsolaError }
  | { type: 'log'; data: string; level: 'debug' | 'info' | 'warning' | 'error' };

/** What a file in a sandbox is. */
export type FileKind = 'file' | 'directory' | 'link' | 'device';

/** The metadata of a file in a sandbox. */
export interface FileStat {
  kind: FileKind;
  /** The size in bytes; 0 for a directory. */
  size: number;
  /** The permissions, such as `0o644`. */
  mode: number;
  /** The time of the last change. */
  modified: Date;
}

/** An entry of a directory of a sandbox. A symbolic link is not followed. */
export interface FileEntry extends FileStat {
  name: string;
}

/**
 * The files of a sandbox, which are in memory and limited by `maxStorage`. Relative paths
 * start in the sandbox's home, `/root`, where its code starts as well. Symbolic links never
 * lead out of the sandbox. Mounted directories are not part of them.
 *
 * The operations may be used while the sandbox runs code, and also after a limit or a crash
 * has closed it; `Sandbox.close` removes the files. They reject with a `FileError`.
 */
export class Files {
  private constructor();
  /** Returns the content of a file. */
  read(path: string): Promise<Buffer>;
  /** Returns the content of a text file, in UTF-8. */
  readText(path: string): Promise<string>;
  /**
   * Writes a file: creates it and its missing directories, or replaces its content. If there
   * is not enough space, the old content is kept.
   */
  write(path: string, content: string | Uint8Array): Promise<void>;
  /** Returns the entries of a directory, sorted by name. Default: the home. */
  list(path?: string): Promise<FileEntry[]>;
  /** Returns the metadata of a file. Symbolic links are followed. */
  stat(path: string): Promise<FileStat>;
  /** Reports whether a file or directory exists. */
  exists(path: string): Promise<boolean>;
  /** Creates a directory and its missing parents. Succeeds if it exists. */
  makeDir(path: string): Promise<void>;
  /** Removes a file, or a directory with everything in it. A link is removed itself. */
  remove(path: string): Promise<void>;
  /** Moves a file or directory. An existing file is replaced, and directories are created. */
  rename(from: string, to: string): Promise<void>;
}

/** A value that code has shown, in one or more representations. */
export class Result {
  private constructor();
  /**
   * The representations by MIME type: base64 for binary types such as `image/png`, JSON
   * values for JSON types, text for all others.
   */
  readonly data: { readonly [mime: string]: JsonValue };
  /**
   * `errors` has a message for each representation that failed, and `omitted` the size of
   * each that exceeded a limit.
   */
  readonly metadata: { readonly [name: string]: JsonValue };
  /** True for the value of the last expression. */
  readonly isMainResult: boolean;
  /** The representation `text/plain`. */
  readonly text: string | null;
  /** The representation `text/html`. */
  readonly html: string | null;
  /** The representation `text/markdown`. */
  readonly markdown: string | null;
  /** The representation `image/svg+xml`. */
  readonly svg: string | null;
  /** The representation `image/png`, in base64. */
  readonly png: string | null;
  /** The representation `image/jpeg`, in base64. */
  readonly jpeg: string | null;
  /** The representation `text/latex`. */
  readonly latex: string | null;
  /** The representation `application/json`, as a value. */
  readonly json: JsonValue;
  /** The chart as data: the representation `application/vnd.isorun.chart+json`. */
  readonly chart: JsonValue;
  /** Returns the MIME types of the representations. */
  formats(): string[];
}

/** The exception that ended code. It is no error of this package. */
export interface ExecutionError {
  /** The name of its type; `TimeoutError` after a time limit. */
  name: string;
  /** Its message. */
  value: string;
  /** The traceback as a terminal shows it, or empty. */
  traceback: string;
}

/** The outcome of code that was run by `Sandbox.runCode`. */
export class Execution {
  private constructor();
  /** The values that were shown, in order. */
  readonly results: readonly Result[];
  /** The output: texts in the order in which they were written. */
  readonly logs: { readonly stdout: readonly string[]; readonly stderr: readonly string[] };
  /** The exception that ended the code. */
  readonly error: ExecutionError | null;
  /** The number of the code in its context, from 1. */
  readonly executionCount: number;
  /** The value of the last expression as text. */
  readonly text: string | null;
}

/** A context: an interpreter state with its own globals and working directory. */
export interface Context {
  id: string;
  language: 'python' | 'javascript';
  /** The working directory; empty if the runtime has none. */
  cwd: string;
  /** The number of executions since it was created or restarted. */
  executionCount: number;
}

/**
 * The contexts of a sandbox. The context `default` exists in each sandbox: scripts and
 * `Sandbox.run` use its globals as well. Forks and snapshots have the contexts, too.
 */
export class Contexts {
  private constructor();
  /**
   * Creates a context. `language` is that of the sandbox, and `cwd` an existing directory of
   * the sandbox. A JavaScript sandbox has no working directories.
   */
  create(options?: { language?: string | null; cwd?: string | null }): Promise<Context>;
  list(): Promise<Context[]>;
  /** Removes everything that code has defined in a context, and counts from 1 again. */
  restart(context: Context | string): Promise<Context>;
  /** Interrupts the code of a context, and reports whether any runs. */
  interrupt(context: Context | string): Promise<boolean>;
  /** Removes a context. The context `default` cannot be removed. */
  remove(context: Context | string): Promise<void>;
}

/** Options of `Sandbox.runCode`. */
export interface CodeOptions extends CallOptions {
  /** The language, which must be that of the sandbox. */
  language?: string | null;
  /** The context or its id. Default: `"default"`. */
  context?: Context | string | null;
  /** Another name of `timeoutMs`, in milliseconds. */
  timeout?: number;
  /** Functions that receive output, results and the exception as they happen. */
  onStdout?: ((text: string) => unknown) | null;
  onStderr?: ((text: string) => unknown) | null;
  onResult?: ((result: Result) => unknown) | null;
  onError?: ((error: ExecutionError) => unknown) | null;
}

/** An argument with a name. */
export class Arg {
  constructor(value: JsonInput | StreamArg, name?: string | null);
  readonly value: JsonInput | StreamArg;
  readonly name: string | null;
}

export interface StreamOptions {
  /** The maximum number of values that the guest has not read. Default: 1,024. */
  capacity?: number;
  /** The name of the argument. Default: none, a positional one. */
  name?: string | null;
}

/**
 * An argument whose values are sent while the call runs. A Python guest iterates over it
 * with `for` or `async for`, a JavaScript guest with `for await`. It can be used for one
 * call.
 */
export class StreamArg {
  constructor(options?: StreamOptions);
  /**
   * Creates a stream of the values of an iterable, which is read at the guest's pace, at
   * most `capacity` values ahead. Its iterator's `return` is called when the call ends.
   */
  static from(
    values: Iterable<JsonInput | PromiseLike<JsonInput>> | AsyncIterable<JsonInput>,
    options?: StreamOptions,
  ): StreamArg;
  readonly name: string | null;
  readonly capacity: number;
  /**
   * Waits for room and adds a value. Rejects with a `StreamClosedError` after `end`, and
   * when the call has ended.
   */
  send(value: JsonInput): Promise<void>;
  /** Adds a value without waiting; throws a `StreamFullError` if there is no room for it. */
  push(value: JsonInput): void;
  /** Ends the stream after the values that were added. */
  end(): void;
}

/** Positional arguments, and `Arg`s and `StreamArg`s among them. */
export type Args = readonly (JsonInput | Arg | StreamArg)[];
/** Named arguments. */
export type Kwargs = { readonly [name: string]: JsonInput | StreamArg };

/**
 * Finds the runtime that `buildTemplate` would use with the same options, and downloads
 * it if it is not installed.
 */
export function resolveRuntime(
  runtime: RuntimeName,
  config?: RuntimeOptions,
): Promise<RuntimeConfig>;

/** Builds a template in a context of its own. */
export function buildTemplate(
  runtime: RuntimeName,
  config?: TemplateConfig,
): Promise<SandboxTemplate>;

/** A context that builds templates until it is closed. */
export class SandboxContext {
  constructor();
  buildTemplate(runtime: RuntimeName, config?: TemplateConfig): Promise<SandboxTemplate>;
  /** Closes the context. Templates that it built remain usable. */
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
  /** Creates a started sandbox that continues from a snapshot or a snapshot file. */
  restore(
    snapshot: Snapshot | string,
    config: SandboxConfig & { bigints: true },
  ): Promise<Sandbox<JsonValueWithBigInt>>;
  restore(snapshot: Snapshot | string, config?: SandboxConfig): Promise<Sandbox>;
}

/** A copy of an interpreter's state: its imports, globals and generators. */
export class Snapshot {
  private constructor();
  readonly runtime: RuntimeName;
  /** The size of the interpreter's memory, in bytes. */
  readonly memorySize: number;
  /** The memory that the snapshot itself uses, in bytes. */
  readonly residentSize: number;
  /**
   * Writes the snapshot to a file atomically and returns the file's size. The file
   * contains all data of the guest; only its owner can read it.
   */
  save(path: string): Promise<number>;
}

/** An isolated interpreter that runs guest code, one call at a time. */
export class Sandbox<Value = JsonValue> {
  private constructor();
  /** Starts the interpreter. Must be called once, before anything else. */
  start(options?: CallOptions): Promise<void>;
  /** Runs source code at the top level; `name` appears in tracebacks. */
  loadScript(code: string, options?: CallOptions & { name?: string }): Promise<void>;
  /** Calls a function of a script and returns its result. */
  run(
    name: string,
    args?: Args | null,
    kwargs?: Kwargs | null,
    options?: CallOptions,
  ): Promise<Value | null>;
  /** Calls a function and returns its events. Leaving the loop stops the guest. */
  runStream(
    name: string,
    args?: Args | null,
    kwargs?: Kwargs | null,
    options?: CallOptions,
  ): AsyncGenerator<Event<Value>, void, undefined>;
  /**
   * Runs source code at the top level and returns the value of its last expression, or
   * `null` if it does not end in one. A value that JSON cannot represent is returned as
   * a string. Evaluated code and scripts share their globals.
   */
  evaluate(code: string, options?: CallOptions): Promise<Value | null>;
  /** Does the same as `evaluate` and returns the events. */
  evaluateStream(
    code: string,
    options?: CallOptions,
  ): AsyncGenerator<Event<Value>, void, undefined>;
  /**
   * Runs code as in a notebook, and returns what it shows: the value of its last expression,
   * other results, output, and the exception that ended it, which is not thrown. Code knows
   * what earlier code in the same context has defined.
   *
   * Python code that exceeds its time limit is interrupted, and `error` is named
   * `TimeoutError`; code that does not end then, and JavaScript, is stopped, which closes the
   * sandbox. If a listener throws, the code is interrupted, and the promise rejects with what
   * it threw.
   */
  runCode(code: string, options?: CodeOptions): Promise<Execution>;
  /**
   * Interrupts the code that `runCode` runs, and reports whether there is any. Python code
   * gets a `KeyboardInterrupt`, as from Ctrl-C; its context keeps its state. JavaScript is
   * interrupted only while it waits. Code that does not end within two seconds is stopped,
   * which closes the sandbox.
   */
  interrupt(): boolean;
  /** The files of the sandbox. */
  readonly files: Files;
  /** The contexts of the sandbox, in which `runCode` runs code. */
  readonly contexts: Contexts;
  /**
   * Shuts the interpreter down in order and closes the sandbox. A Python guest runs its
   * `atexit` handlers, finalizers and `__del__` methods, as `python3` does when it exits.
   * `close` runs no code of the guest.
   */
  finish(options?: CallOptions): Promise<void>;
  /** Does the same as `finish` and returns the events. */
  finishStream(options?: CallOptions): AsyncGenerator<Event<Value>, void, undefined>;
  /** Takes a snapshot of the interpreter; the sandbox remains usable. */
  snapshot(): Promise<Snapshot>;
  /** Creates started, independent sandboxes that continue from this one's state. */
  fork(count?: number): Promise<Sandbox<Value>[]>;
  /** Stops the running call and frees the guest. */
  close(): void;
  /** Does the same as `close`; resolves when the guest has been freed. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** An exception of a guest. Every field is controlled by the guest. */
export interface GuestException {
  name: string;
  message: string;
  traceback: string;
}

export type ErrorCode =
  | 'aborted'
  | 'busy'
  | 'closed'
  | 'cpu_time_limit'
  | 'crash'
  | 'download_failed'
  | 'download_refused'
  | 'file'
  | 'guest_exception'
  | 'handle_limit'
  | 'hostcall_failed'
  | 'internal'
  | 'invalid_argument'
  | 'memory_limit'
  | 'not_pending'
  | 'not_running'
  | 'output_limit'
  | 'recursion_limit'
  | 'snapshot_refused'
  | 'stream_closed'
  | 'stream_full'
  | 'value_size_limit'
  | 'wall_time_limit';

/** The base of all errors of this package. */
export class IsolaError extends Error {
  /** The stable error code, on which programs may depend. */
  readonly code: ErrorCode;
  /** The guest's exception, if it caused the error. */
  readonly exception?: GuestException;
}
/** The caller's signal ended the call; `cause` is its reason. */
export class AbortError extends IsolaError {}
/** The sandbox is running another call. */
export class BusyError extends IsolaError {}
/** The sandbox or context is closed. */
export class ClosedError extends IsolaError {}
/** The interpreter crashed. */
export class CrashError extends GuestError {}
/** A runtime could not be downloaded, or the download was rejected. */
export class DownloadError extends IsolaError {}
/** An operation of the caller on a file of a sandbox failed. */
export class FileError extends IsolaError {
  /** The name of the error number that POSIX has for it, such as `ENOENT`. */
  readonly reason: string;
  /** The path as it was passed, in the sandbox. */
  readonly path: string;
}
/** User code threw; the base of the other faults of the guest. */
export class GuestError extends IsolaError {}
/** A hostcall failed, and user code did not catch it. */
export class HostcallError extends GuestError {}
/** A bug in isola, or a failure of the host system. */
export class InternalError extends IsolaError {}
/** An argument or option is invalid. */
export class InvalidArgumentError extends IsolaError {}
/** A limit was exceeded; `code` identifies it. */
export class LimitError extends IsolaError {}
/** The sandbox has already been started. */
export class NotPendingError extends IsolaError {}
/** The sandbox has not been started. */
export class NotRunningError extends IsolaError {}
/** The sandbox cannot be copied, or the snapshot cannot be restored here. */
export class SnapshotError extends IsolaError {}
/** A `StreamArg` takes no more values: it was ended, or its call has ended. */
export class StreamClosedError extends IsolaError {}
/** A `StreamArg` holds as many values as its capacity, because the guest is slower. */
export class StreamFullError extends IsolaError {}
