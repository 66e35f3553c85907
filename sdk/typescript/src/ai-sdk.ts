/**
 * A sandbox session of the AI SDK, `Experimental_SandboxSession`, in a sandbox of an isorun server.
 *
 *     import { Sandbox } from '@isorun/sdk';
 *     import { createSandboxSession } from '@isorun/sdk/ai-sdk';
 *
 *     await using sandbox = await Sandbox.create({ image: 'python:3.12' });
 *     const experimental_sandbox = await createSandboxSession(sandbox);
 *
 * The types here are those of the AI SDK, in form: it is not imported.
 */

import { IsorunError } from './errors.js';
import { EventStream } from './events.js';
import { clientOf } from './internal.js';
import { OutputStream } from './output-stream.js';
import { Process } from './process.js';
import * as protocol from './protocol.js';
import type { Sandbox } from './sandbox.js';
import type { Transport } from './transport.js';
import type { ExecResult } from './types.js';

/** The size of a file that `readBinaryFile` and `readTextFile` read by default, in bytes. */
const MAX_FILE_BYTES = 64 << 20;
/**
 * The timeout of the scripts below in seconds, because programs in the sandbox are not trusted to
 * end.
 */
const SCRIPT_TIMEOUT = 60;
/** The exit code of a shell for a command that cannot be started. */
const NOT_STARTED = 127;
/** The exit codes of the scripts below. */
const MISSING = 77;
const WRONG_TYPE = 78;
const UNREADABLE = 79;

/** The options of a session. */
export interface SandboxSessionOptions {
  /**
   * The base directory, an absolute path, which is created if it does not exist; by default the
   * working directory of the image.
   */
  workingDirectory?: string | undefined;
  /** The description for a model; by default the image and the base directory. */
  description?: string | undefined;
  /** The size of a file that `readBinaryFile` and `readTextFile` read, in bytes; 64 MiB. */
  maxFileBytes?: number | undefined;
}

export interface CommandOptions {
  command: string;
  workingDirectory?: string | undefined;
  env?: Record<string, string> | undefined;
  abortSignal?: AbortSignal | undefined;
}

export interface PathOptions {
  path: string;
  abortSignal?: AbortSignal | undefined;
}

export interface TextOptions extends PathOptions {
  encoding?: string | undefined;
  startLine?: number | undefined;
  endLine?: number | undefined;
}

export interface ContentOptions<C> extends PathOptions {
  content: C;
}

/** A command that runs. */
export interface SandboxProcess {
  readonly stdout: ReadableStream<Uint8Array>;
  readonly stderr: ReadableStream<Uint8Array>;
  wait(): Promise<{ exitCode: number }>;
  kill(): Promise<void>;
}

/** A command that runs, and whose input stays open. */
export interface WritableSandboxProcess extends SandboxProcess {
  readonly stdin: WritableStream<Uint8Array>;
}

export interface FileStat {
  type: 'file' | 'directory' | 'other';
  size: number;
}

export interface DirectoryEntry {
  name: string;
  type: 'file' | 'directory' | 'symlink' | 'other';
}

/** A session of the AI SDK. */
export interface SandboxSession {
  readonly description: string;
  readonly run: (
    options: CommandOptions,
  ) => Promise<{ exitCode: number; stdout: string; stderr: string }>;
  readonly spawn: {
    (options: CommandOptions & { stdin: true }): Promise<WritableSandboxProcess>;
    (options: CommandOptions & { stdin?: false | undefined }): Promise<SandboxProcess>;
    (
      options: CommandOptions & { stdin?: boolean | undefined },
    ): Promise<SandboxProcess | WritableSandboxProcess>;
  };
  readonly readFile: (options: PathOptions) => Promise<ReadableStream<Uint8Array> | null>;
  readonly readBinaryFile: (options: PathOptions) => Promise<Uint8Array | null>;
  readonly readTextFile: (options: TextOptions) => Promise<string | null>;
  readonly writeFile: (options: ContentOptions<ReadableStream<Uint8Array>>) => Promise<void>;
  readonly writeBinaryFile: (options: ContentOptions<Uint8Array>) => Promise<void>;
  readonly writeTextFile: (
    options: ContentOptions<string> & { encoding?: string | undefined },
  ) => Promise<void>;
  readonly stat: (options: PathOptions) => Promise<FileStat | null>;
  readonly listDirectory: (options: PathOptions) => Promise<DirectoryEntry[] | null>;
  readonly deleteFile: (options: PathOptions) => Promise<boolean>;
}

/**
 * Returns a session of the AI SDK whose commands and files are those of a sandbox. The sandbox
 * remains the caller's, who destroys it.
 */
export async function createSandboxSession(
  sandbox: Sandbox,
  options: SandboxSessionOptions = {},
): Promise<SandboxSession> {
  const { workingDirectory } = options;
  if (workingDirectory !== undefined && !workingDirectory.startsWith('/')) {
    throw new IsorunError(`workingDirectory is ${workingDirectory}: give an absolute path`);
  }
  // Refuses what is not a sandbox of this package.
  clientOf(sandbox);
  const base =
    workingDirectory === undefined
      ? (await sandbox.exec('pwd')).stdout.replace(/\n$/, '') || '/'
      : absolute(workingDirectory, '/');
  const session = new Session(sandbox, base, options);
  if (workingDirectory !== undefined) await session.createBase();
  return session;
}

class Session implements SandboxSession {
  readonly description: string;
  readonly #sandbox: Sandbox;
  readonly #base: string;
  readonly #maxFileBytes: number;

  constructor(sandbox: Sandbox, base: string, options: SandboxSessionOptions) {
    this.#sandbox = sandbox;
    this.#base = base;
    this.#maxFileBytes = options.maxFileBytes ?? MAX_FILE_BYTES;
    this.description =
      options.description ??
      `A Linux sandbox with the image ${sandbox.info.image}. ` +
        `Commands run in ${base} with /bin/sh, and relative paths start there.`;
  }

  /** Creates the base directory. */
  async createBase(): Promise<void> {
    if ((await this.#sandbox.exec(`cd ${quote(this.#base)}`)).ok) return;
    // A directory that an upload creates belongs to the user of the image, who may not be allowed
    // to create it.
    const marker = absolute('.isorun', this.#base);
    await this.writeBinaryFile({ path: marker, content: new Uint8Array() });
    await this.#sandbox.exec(`rm -f ${quote(marker)}`);
  }

  // Tools may take a method off the session, so all of them are bound to it.

  readonly run = async (
    options: CommandOptions,
  ): Promise<{ exitCode: number; stdout: string; stderr: string }> => {
    const { command, workingDirectory, env, abortSignal } = options;
    try {
      const cwd = this.#resolve(workingDirectory);
      const done = await this.#execute(command, cwd, env, abortSignal);
      const { exitCode, stdout } = done;
      return { exitCode, stdout, stderr: done.stderr + truncation(done) };
    } catch (error) {
      if (!isKind(error, 'command_not_found')) throw error;
      return { exitCode: NOT_STARTED, stdout: '', stderr: `${(error as IsorunError).message}\n` };
    }
  };

  readonly spawn = (async (
    options: CommandOptions & { stdin?: boolean | undefined },
  ): Promise<SandboxProcess | WritableSandboxProcess> => {
    const process = await Process.start(this.#transport(), this.#sandbox.id, {
      command: options.command,
      cwd: this.#resolve(options.workingDirectory),
      env: options.env,
      hasInput: options.stdin === true,
      signal: options.abortSignal,
    });
    const { stdout, stderr, input } = process;
    const handle: SandboxProcess = {
      stdout,
      stderr,
      wait: async () => ({ exitCode: await process.wait() }),
      kill: () => process.kill(),
    };
    return input === undefined ? handle : { ...handle, stdin: input };
  }) as SandboxSession['spawn'];

  readonly readFile = async (options: PathOptions): Promise<ReadableStream<Uint8Array> | null> => {
    const chunks = this.#download(options)[Symbol.asyncIterator]();
    let first;
    try {
      first = await chunks.next();
    } catch (error) {
      if (isKind(error, 'file_not_found')) return null;
      throw error;
    }
    let next: IteratorResult<Uint8Array, void> | undefined = first;
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          const read: IteratorResult<Uint8Array, void> = next ?? (await chunks.next());
          next = undefined;
          if (read.done) controller.close();
          else controller.enqueue(read.value);
        },
        cancel: async () => {
          await chunks.return?.();
        },
      },
      // The server is asked for more only when the reader is.
      { highWaterMark: 0 },
    );
  };

  readonly readBinaryFile = async (options: PathOptions): Promise<Uint8Array | null> => {
    const { path, abortSignal: signal } = options;
    const maxBytes = this.#maxFileBytes;
    try {
      return await this.#sandbox.download(this.#resolve(path), { maxBytes, signal });
    } catch (error) {
      if (isKind(error, 'file_not_found')) return null;
      if (!isKind(error, 'too_large')) throw error;
      throw new IsorunError(
        `${path} has more than ${maxBytes} bytes, the limit of the session: read a part of it ` +
          'with a command, or raise maxFileBytes',
        { kind: 'too_large', cause: error },
      );
    }
  };

  readonly readTextFile = async (options: TextOptions): Promise<string | null> => {
    const { encoding = 'utf-8', startLine, endLine } = options;
    for (const [name, line] of [
      ['startLine', startLine],
      ['endLine', endLine],
    ] as const) {
      if (line !== undefined && !(Number.isInteger(line) && line >= 1)) {
        throw new IsorunError(`${name} is ${line}: give a line number, from 1`);
      }
    }
    const decode = decoder(encoding);
    const bytes = await this.readBinaryFile(options);
    if (bytes === null) return null;
    const text = decode(bytes);
    if (startLine === undefined && endLine === undefined) return text;
    const ending = ['\r\n', '\n', '\r'].find((each) => text.includes(each)) ?? '\n';
    return text
      .split(ending)
      .slice((startLine ?? 1) - 1, endLine)
      .join(ending);
  };

  readonly writeFile = async (
    options: ContentOptions<ReadableStream<Uint8Array>>,
  ): Promise<void> => {
    await this.#upload(options, read(options.content));
  };

  readonly writeBinaryFile = async (options: ContentOptions<Uint8Array>): Promise<void> => {
    await this.#upload(options, options.content);
  };

  readonly writeTextFile = async (
    options: ContentOptions<string> & { encoding?: string | undefined },
  ): Promise<void> => {
    const { encoding = 'utf-8', content } = options;
    if (!Buffer.isEncoding(encoding)) {
      throw new IsorunError(
        `${encoding} is not an encoding in which a text can be written: use utf-8`,
      );
    }
    await this.#upload(options, Buffer.from(content, encoding));
  };

  readonly stat = async (options: PathOptions): Promise<FileStat | null> => {
    const path = quote(this.#resolve(options.path));
    const script = `
      if [ -d ${path} ]; then echo directory 0
      elif [ -f ${path} ]; then
        echo file $(stat -L -c %s -- ${path} 2>/dev/null || wc -c < ${path})
      elif [ -e ${path} ]; then echo other 0
      else exit ${MISSING}; fi`;
    const done = await this.#script(script, options);
    if (done.exitCode === MISSING) return null;
    const [, type, size] = /^(file|directory|other) +(\d{1,15})\n$/.exec(done.stdout) ?? [];
    if (type === undefined) throw failed('inspect', options.path, done);
    return { type: type as FileStat['type'], size: Number(size) };
  };

  readonly listDirectory = async (options: PathOptions): Promise<DirectoryEntry[] | null> => {
    const path = quote(this.#resolve(options.path));
    const script = `
      [ -e ${path} ] || exit ${MISSING}
      [ -d ${path} ] || exit ${WRONG_TYPE}
      cd ${path} && [ -r . ] || exit ${UNREADABLE}
      for entry in * .[!.]* ..?*; do
        if [ -L "$entry" ]; then printf 'symlink/%s/' "$entry"
        elif [ -d "$entry" ]; then printf 'directory/%s/' "$entry"
        elif [ -f "$entry" ]; then printf 'file/%s/' "$entry"
        elif [ -e "$entry" ]; then printf 'other/%s/' "$entry"; fi
      done`;
    const done = await this.#script(script, options);
    if (done.exitCode === MISSING) return null;
    if (done.exitCode === WRONG_TYPE) throw new IsorunError(`${options.path} is not a directory`);
    if (!done.ok) throw failed('list', options.path, done);
    if (done.stdoutTruncated) throw new IsorunError(`${options.path} has too many entries to list`);
    // No name contains a slash.
    const fields = done.stdout.split('/');
    const entries: DirectoryEntry[] = [];
    for (let at = 0; at + 1 < fields.length; at += 2) {
      const [type = '', name = ''] = fields.slice(at, at + 2);
      entries.push({ name, type: isEntryType(type) ? type : 'other' });
    }
    return entries;
  };

  readonly deleteFile = async (options: PathOptions): Promise<boolean> => {
    const path = quote(this.#resolve(options.path));
    const script = `
      if [ -L ${path} ]; then rm -f -- ${path}
      elif [ -d ${path} ]; then exit ${WRONG_TYPE}
      elif [ -e ${path} ]; then rm -f -- ${path}
      else exit ${MISSING}; fi`;
    const done = await this.#script(script, options);
    if (done.exitCode === MISSING) return false;
    if (done.exitCode === WRONG_TYPE) throw new IsorunError(`${options.path} is a directory`);
    if (!done.ok) throw failed('delete', options.path, done);
    return true;
  };

  #transport(): Transport {
    return clientOf(this.#sandbox);
  }

  #resolve(path = ''): string {
    if (path.includes('\0')) throw new IsorunError('a path cannot contain the character U+0000');
    return absolute(path, this.#base);
  }

  #script(script: string, { abortSignal }: PathOptions): Promise<ExecResult> {
    return this.#execute(script, this.#base, undefined, abortSignal, SCRIPT_TIMEOUT);
  }

  async #execute(
    command: string,
    cwd: string,
    env: Record<string, string> | undefined,
    signal: AbortSignal | undefined,
    timeout = 0,
  ): Promise<ExecResult> {
    return await this.#sandbox.exec(command, { cwd, env, signal, timeout });
  }

  #download({ path, abortSignal }: PathOptions): OutputStream<Uint8Array, void> {
    const operation = protocol.download(this.#sandbox.id, this.#resolve(path));
    return new OutputStream<Uint8Array, void>(async (listen, signal) => {
      // Not a stream of events: the content of the file.
      const content = new FileContent();
      await this.#transport().stream(operation, content, signal, listen);
    }, abortSignal);
  }

  async #upload(
    { path, abortSignal }: PathOptions,
    content: AsyncIterable<Uint8Array> | Uint8Array,
  ): Promise<void> {
    const operation = protocol.upload(this.#sandbox.id, this.#resolve(path));
    await this.#transport().send(operation, abortSignal, content);
  }
}

/** The response of a download, whose chunks are the events. */
class FileContent extends EventStream<Uint8Array, Uint8Array> {
  override feed(content: Uint8Array): Uint8Array[] {
    return [new Uint8Array(content)];
  }

  override result(): Uint8Array {
    return new Uint8Array();
  }

  protected override event(): undefined {}
}

async function* read(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  let isComplete = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      isComplete = done;
      if (done) return;
      yield value;
    }
  } finally {
    if (!isComplete) await reader.cancel().catch(() => {});
  }
}

/** Returns the absolute form of a path, which the server requires, without `..`. */
function absolute(path: string, base: string): string {
  const parts: string[] = [];
  for (const part of (path.startsWith('/') ? path : `${base}/${path}`).split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return `/${parts.join('/')}`;
}

/** Returns a text as one word of the shell. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function decoder(encoding: string): (bytes: Uint8Array) => string {
  if (Buffer.isEncoding(encoding)) return (bytes) => Buffer.from(bytes).toString(encoding);
  try {
    const decoder = new TextDecoder(encoding, { ignoreBOM: true });
    return (bytes) => decoder.decode(bytes);
  } catch (error) {
    throw new IsorunError(`${encoding} is not a known encoding of texts: use utf-8`, {
      cause: error,
    });
  }
}

function isEntryType(text: string): text is DirectoryEntry['type'] {
  return ['file', 'directory', 'symlink'].includes(text);
}

function isKind(error: unknown, kind: string): boolean {
  return error instanceof IsorunError && error.kind === kind;
}

function truncation(done: ExecResult): string {
  const names = [
    ...(done.stdoutTruncated ? ['standard output'] : []),
    ...(done.stderrTruncated ? ['standard error'] : []),
  ];
  if (names.length === 0) return '';
  const separator = done.stderr === '' || done.stderr.endsWith('\n') ? '' : '\n';
  const text = `the end of ${names.join(' and ')} is missing, which exceeds the limit`;
  return `${separator}[isorun: ${text}]\n`;
}

function failed(verb: string, path: string, done: ExecResult): IsorunError {
  const reason = done.stderr.trim() || `exit code ${done.exitCode}`;
  return new IsorunError(`cannot ${verb} ${path}: ${reason}`);
}
