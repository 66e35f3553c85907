/** The class `Sandbox`: a Linux sandbox on a server. */

import { open, type FileHandle } from 'node:fs/promises';

import type { CodeEvent, Context, Execution, ExecutionError, Result } from './code.js';
import { CodeEvents, runCode } from './code-protocol.js';
import { find } from './config.js';
import { Contexts } from './contexts.js';
import { IsorunError } from './errors.js';
import { setClient } from './internal.js';
import type {
  CallOptions,
  CommandOptions,
  ConnectOptions,
  CreateOptions,
  DownloadOptions,
  ExecOptions,
  RestoreOptions,
  ServerOptions,
  StreamOptions,
  WriteBytesOptions,
} from './options.js';
import { OutputStream } from './output-stream.js';
import * as protocol from './protocol.js';
import { Shell, type ShellOptions } from './shell.js';
import { Transport } from './transport.js';
import type {
  DestroyStats,
  ExecBytesResult,
  ExecOutput,
  ExecResult,
  SandboxInfo,
  SnapshotInfo,
} from './types.js';

/** The default timeout of a command in seconds. */
const EXEC_TIMEOUT = 30;
/** The size of the chunks in which a file is uploaded, in bytes. */
const CHUNK_BYTES = 1 << 20;

/** The options of a cell of code whose events are read as a stream. */
export interface CodeStreamOptions extends StreamOptions {
  /** `python` by default. */
  language?: string | undefined;
  /** The context in which it runs; by default that of its language. */
  context?: string | Context | undefined;
}

/**
 * The options of a cell of code. The callbacks are called for each event as it arrives, and
 * awaited if they are asynchronous. If one throws, the cell is interrupted.
 */
export interface RunCodeOptions extends CodeStreamOptions {
  onStdout?: ((text: string) => unknown) | undefined;
  onStderr?: ((text: string) => unknown) | undefined;
  onResult?: ((result: Result) => unknown) | undefined;
  onError?: ((error: ExecutionError) => unknown) | undefined;
}

/**
 * A Linux sandbox on an isorun server.
 *
 *     await using sb = await Sandbox.create({ image: 'host' });
 *     console.log((await sb.exec("python3 -c 'print(2 + 2)'")).stdout);
 *
 * `await using` destroys it at the end of its block. Otherwise call `destroy`.
 */
export class Sandbox {
  /** The id that the server gave the sandbox. */
  readonly id: string;
  /** The properties that the server returned when it was created or connected to. */
  readonly info: SandboxInfo;
  /** The default timeout of a command in seconds; 0 or -1 for no timeout. */
  timeout: number;
  readonly #transport: Transport;
  #stats: DestroyStats | undefined;

  private constructor(transport: Transport, info: SandboxInfo, timeout: number | undefined) {
    this.#transport = transport;
    this.id = info.id;
    this.info = info;
    this.timeout = timeout ?? EXEC_TIMEOUT;
    setClient(this, () => {
      this.#running();
      return this.#transport;
    });
  }

  /** Creates a sandbox. */
  static async create(options: CreateOptions): Promise<Sandbox> {
    return await Sandbox.#new(options, protocol.create(options));
  }

  /** Creates a sandbox that continues from a snapshot. */
  static async restore(snapshotId: string, options: RestoreOptions = {}): Promise<Sandbox> {
    return await Sandbox.#new(options, protocol.restore(snapshotId));
  }

  /**
   * Returns the existing sandbox with this id, which another program may have created. `await
   * using` destroys it, like one that `create` has created.
   *
   * Rejects if the sandbox does not exist, was destroyed, or belongs to another tenant.
   */
  static async connect(sandboxId: string, options: ConnectOptions = {}): Promise<Sandbox> {
    return await Sandbox.#new(options, protocol.get(sandboxId));
  }

  /** Returns the snapshots on the server, the oldest first. */
  static async snapshots(options: ServerOptions = {}): Promise<SnapshotInfo[]> {
    return await once(options, protocol.snapshots());
  }

  /** Deletes a snapshot. Sandboxes that were restored from it are not affected. */
  static async deleteSnapshot(snapshotId: string, options: ServerOptions = {}): Promise<void> {
    await once(options, protocol.deleteSnapshot(snapshotId));
  }

  /**
   * Runs a command and waits for its end.
   *
   * The command is a command line for the shell, or a list: a program and its arguments. Rejects
   * with `IsorunTimeoutError` if it exceeded the timeout and was killed. The signal kills it,
   * too. Without callbacks the server limits the size of the output.
   */
  async exec(command: string | readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const { onStdout, onStderr, signal } = options;
    if (onStdout === undefined && onStderr === undefined) {
      const operation = protocol.execute(this.#running(), this.#command(command, options));
      return await this.#send(operation, signal);
    }
    const listeners = { stdout: onStdout, stderr: onStderr };
    return await this.#execute(command, options, signal, ({ type, text }) =>
      listeners[type]?.(text),
    );
  }

  /**
   * Runs a command as `exec` does, and returns its output byte for byte.
   *
   * The output in an `IsorunTimeoutError` is text nevertheless.
   */
  async execBytes(
    command: string | readonly string[],
    options: CommandOptions = {},
  ): Promise<ExecBytesResult> {
    const operation = protocol.executeBytes(this.#running(), this.#command(command, options));
    return await this.#send(operation, options.signal);
  }

  /**
   * Runs a command, whose output is read as a stream. It starts when the stream is read, and is
   * killed if the loop is left early.
   */
  execStream(
    command: string | readonly string[],
    options: CommandOptions = {},
  ): OutputStream<ExecOutput, ExecResult> {
    return new OutputStream(
      (listen, signal) => this.#execute(command, options, signal, listen),
      options.signal,
    );
  }

  /**
   * Runs a cell of code, as a notebook does, and returns its results and output.
   *
   * Variables persist from one cell to the next of the same context. Code that raises an
   * exception does not reject: see `error` of the result.
   */
  async runCode(code: string, options: RunCodeOptions = {}): Promise<Execution> {
    const { onStdout, onStderr, onResult, onError } = options;
    if ([onStdout, onStderr, onResult, onError].every((listener) => listener === undefined)) {
      const timeout = options.timeout ?? this.timeout;
      const operation = runCode(this.#running(), code, options, timeout, false);
      return await this.#send(operation, options.signal);
    }
    return await this.#runCode(code, options, options.signal, (event) => {
      switch (event.type) {
        case 'stdout':
          return onStdout?.(event.text);
        case 'stderr':
          return onStderr?.(event.text);
        case 'result':
          return onResult?.(event.result);
        case 'error':
          return onError?.(event.error);
      }
    });
  }

  /**
   * Runs a cell of code, whose events are read as a stream. It starts when the stream is read,
   * and is interrupted if the loop is left early.
   */
  runCodeStream(code: string, options: CodeStreamOptions = {}): OutputStream<CodeEvent, Execution> {
    return new OutputStream(
      (listen, signal) => this.#runCode(code, options, signal, listen),
      options.signal,
    );
  }

  /** The contexts of the sandbox, in which `runCode` runs code. */
  get contexts(): Contexts {
    return new Contexts(this.#transport, this.#running());
  }

  /**
   * Copies a local file and its permissions into the sandbox, and creates the parent
   * directories.
   */
  async uploadFile(
    localPath: string | URL,
    remotePath: string,
    options: CallOptions = {},
  ): Promise<void> {
    const run = this.#running();
    const file = await open(localPath, 'r');
    try {
      const { mode } = await file.stat();
      await this.#send(protocol.upload(run, remotePath, mode), options.signal, chunks(file));
    } finally {
      await file.close();
    }
  }

  /** Reads a file of the sandbox. */
  async download(remotePath: string, options: DownloadOptions = {}): Promise<Uint8Array> {
    const { maxBytes, signal } = options;
    const operation = protocol.download(this.#running(), remotePath);
    if (maxBytes === undefined) return await this.#send(operation, signal);
    const content = new protocol.BoundedContent(maxBytes);
    return await this.#transport.stream(operation, content, signal, () => {});
  }

  /** Writes a file in the sandbox, as UTF-8, and creates the parent directories. */
  async writeText(remotePath: string, text: string, options: CallOptions = {}): Promise<void> {
    if (/\p{Surrogate}/u.test(text)) {
      throw new IsorunError(
        'the text cannot be written as UTF-8: it contains half of a UTF-16 pair',
      );
    }
    await this.writeBytes(remotePath, Buffer.from(text), { signal: options.signal });
  }

  /**
   * Writes a file in the sandbox, and creates the parent directories.
   *
   * A file that exists is replaced at once, when all of the content has arrived; through a
   * symbolic link its target is replaced.
   */
  async writeBytes(
    remotePath: string,
    content: Uint8Array,
    options: WriteBytesOptions = {},
  ): Promise<void> {
    const operation = protocol.upload(this.#running(), remotePath, options.mode);
    await this.#send(operation, options.signal, content);
  }

  /**
   * Returns the sorted names in a directory of the sandbox. In a name that is not UTF-8, invalid
   * bytes are lone surrogates, which `download` accepts.
   */
  async ls(remotePath: string, options: CallOptions = {}): Promise<string[]> {
    return await this.#send(protocol.ls(this.#running(), remotePath), options.signal);
  }

  /** Sets the sandbox's timeout without activity, in seconds; 0 or -1 for no timeout. */
  async setTimeout(seconds: number, options: CallOptions = {}): Promise<void> {
    await this.#send(protocol.setTimeout(this.#running(), seconds), options.signal);
  }

  /**
   * Copies the running sandbox, with its current files, memory and processes.
   *
   * The copies are independent of it and of each other. The sandbox itself continues.
   */
  async fork(count = 1, options: CallOptions = {}): Promise<Sandbox[]> {
    const infos = await this.#send(protocol.fork(this.#running(), count), options.signal);
    const { target } = this.#transport;
    return infos.map((info) => new Sandbox(new Transport(target), info, this.timeout));
  }

  /** Hibernates the sandbox to the server's disk. `resume` restores it. */
  async hibernate(options: CallOptions = {}): Promise<void> {
    await this.#send(protocol.hibernate(this.#running()), options.signal);
  }

  /** Resumes the hibernated sandbox in the same state. */
  async resume(options: CallOptions = {}): Promise<void> {
    await this.#send(protocol.resume(this.#running()), options.signal);
  }

  /** Takes a snapshot that is stored on the server. Returns its id, for `restore`. */
  async checkpoint(options: CallOptions = {}): Promise<string> {
    return await this.#send(protocol.snapshot(this.#running()), options.signal);
  }

  /** Returns a bash session, whose state persists from one command to the next. */
  shell(options: ShellOptions = {}): Shell {
    return new Shell(this.#transport.target, this.#running(), this.timeout, options);
  }

  /**
   * Returns the public URL of a server on a port in the sandbox, which may listen on the loopback
   * address. Anyone who knows the URL can use it, without a key.
   *
   * Throws if public URLs are disabled, on the server or for this sandbox.
   */
  url(port: number): string {
    const run = this.#running();
    if (!Number.isInteger(port) || port < 2 || port > 65535) {
      throw new IsorunError(`${String(port)} is not a valid port: give a number from 2 to 65535`);
    }
    if (this.info.portUrl === '') {
      throw new IsorunError(`${run} has no public URLs: they are disabled`);
    }
    const path = this.info.portUrl.replace('{port}', String(port));
    return path.startsWith('/') ? this.#transport.target.url + path : path;
  }

  /** Destroys the sandbox. Further calls return the same statistics. */
  async destroy(options: CallOptions = {}): Promise<DestroyStats> {
    if (this.#stats === undefined) {
      this.#stats = await this.#send(protocol.destroy(this.#running()), options.signal);
      this.#transport.close();
    }
    return this.#stats;
  }

  /**
   * Closes the connections to the server, each when its request has ended. The sandbox continues
   * to exist, and a further operation opens new ones. Shells have connections of their own.
   */
  async close(): Promise<void> {
    this.#transport.close();
  }

  /** Destroys the sandbox, if it still exists. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.destroy();
    } catch (error) {
      const isGone =
        error instanceof IsorunError &&
        (error.kind === 'run_destroyed' || error.kind === 'run_not_found');
      if (!isGone) throw error;
    } finally {
      this.#transport.close();
    }
  }

  static async #new(
    options: ConnectOptions,
    operation: protocol.Operation<SandboxInfo>,
  ): Promise<Sandbox> {
    protocol.finite(options.timeout ?? EXEC_TIMEOUT, 'timeout');
    const transport = new Transport(find(options.apiUrl, options.apiKey));
    try {
      const info = await transport.send(operation, options.signal);
      return new Sandbox(transport, info, options.timeout);
    } catch (error) {
      transport.close();
      throw error;
    }
  }

  #running(): string {
    if (this.#stats !== undefined) {
      throw new IsorunError(`${this.id} is destroyed`, { code: 404, kind: 'run_destroyed' });
    }
    return this.id;
  }

  #send<T>(
    operation: protocol.Operation<T>,
    signal: AbortSignal | undefined,
    content?: AsyncIterable<Uint8Array> | Uint8Array,
  ): Promise<T> {
    return this.#transport.send(operation, signal, content);
  }

  #command(
    command: string | readonly string[],
    { timeout, env, cwd, stdin }: CommandOptions,
  ): protocol.Command {
    return { command, timeout: timeout ?? this.timeout, env, cwd, stdin };
  }

  async #execute(
    command: string | readonly string[],
    options: CommandOptions,
    signal: AbortSignal | undefined,
    listen: (output: ExecOutput) => unknown,
  ): Promise<ExecResult> {
    const operation = protocol.executeStream(this.#running(), this.#command(command, options));
    return await this.#transport.stream(operation, new protocol.ExecEvents(), signal, listen);
  }

  async #runCode(
    code: string,
    options: CodeStreamOptions,
    signal: AbortSignal | undefined,
    listen: (event: CodeEvent) => unknown,
  ): Promise<Execution> {
    const timeout = options.timeout ?? this.timeout;
    const operation = runCode(this.#running(), code, options, timeout, true);
    return await this.#transport.stream(operation, new CodeEvents(), signal, listen);
  }
}

/** Sends one request to a server. */
async function once<T>(options: ServerOptions, operation: protocol.Operation<T>): Promise<T> {
  const transport = new Transport(find(options.apiUrl, options.apiKey));
  try {
    return await transport.send(operation, options.signal);
  } finally {
    transport.close();
  }
}

async function* chunks(file: FileHandle): AsyncGenerator<Uint8Array> {
  for (;;) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
  }
}
