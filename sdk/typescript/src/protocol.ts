/** Requests and responses, without any I/O. */

import { IsorunConnectionError, IsorunError, IsorunTimeoutError } from './errors.js';
import { EventStream } from './events.js';
import {
  asObject,
  type JsonObject,
  listOf,
  numberOf,
  optionalStringOf,
  parseObject,
  stringOf,
  stringsOf,
} from './json.js';
import { decodeName, encodeName } from './names.js';
import type { CommandOptions, CreateOptions } from './options.js';
import {
  type DestroyStats,
  ExecBytesResult,
  type ExecOutput,
  ExecResult,
  type SandboxInfo,
  type SnapshotInfo,
} from './types.js';

/** Timeouts in seconds. */
export const CONNECT_TIMEOUT = 10;
export const DEFAULT_TIMEOUT = 60;
/** The first use of an image may have to pull it. */
export const CREATE_TIMEOUT = 900;
/** Gigabytes of memory may have to be written to or read from a disk. */
export const STATE_TIMEOUT = 600;
/** The additional time to wait for the server, which enforces the timeouts of commands itself. */
export const RESPONSE_GRACE = 15;

/** A request, and the parser of its response. */
export class Operation<T> {
  readonly method: string;
  /** The path and the query. */
  readonly target: string;
  readonly body: JsonObject | undefined;
  /** The longest time without a byte of the response, in seconds; undefined for no limit. */
  readonly readTimeout: number | undefined;
  /** Whether the output of a command is in base64, in an error response too. */
  readonly #isEncoded: boolean;
  readonly #parse: (content: Buffer) => T;

  constructor(
    method: string,
    target: string,
    parse: (content: Buffer) => T,
    body?: JsonObject,
    readTimeout: number | undefined = DEFAULT_TIMEOUT,
    isEncoded = false,
  ) {
    this.method = method;
    this.target = target;
    this.body = body;
    this.readTimeout = readTimeout === NO_TIMEOUT ? undefined : readTimeout;
    this.#isEncoded = isEncoded;
    this.#parse = parse;
  }

  /** Returns the content of a response, or throws the exception for it. */
  parseResponse(status: number, content: Buffer): T {
    if (!isSuccess(status)) throw errorResponse(status, content, this.#isEncoded);
    try {
      return this.#parse(content);
    } catch (error) {
      throw new IsorunError(`the server sent an invalid response: ${excerpt(content)}`, {
        code: status,
        cause: error,
      });
    }
  }
}

/** The read timeout of an operation that can take any time. */
const NO_TIMEOUT = Number.POSITIVE_INFINITY;

export function isSuccess(status: number): boolean {
  return status >= 200 && status < 300;
}

export function create(options: CreateOptions): Operation<SandboxInfo> {
  return new Operation('POST', '/v1/runs', info, createBody(options), CREATE_TIMEOUT);
}

export function get(run: string): Operation<SandboxInfo> {
  // Encoded, so that a text that is not an id cannot change the path.
  return new Operation('GET', `/v1/runs/${encodeName(run)}`, info);
}

export function setTimeout(run: string, seconds: number): Operation<void> {
  const body = { timeout: finite(seconds, 'the timeout') };
  return new Operation('PATCH', `/v1/runs/${run}`, ignore, body);
}

export function fork(run: string, count: number): Operation<SandboxInfo[]> {
  const body = { count: finite(count, 'count') };
  return new Operation('POST', `/v1/runs/${run}/fork`, forks, body, STATE_TIMEOUT);
}

export function hibernate(run: string): Operation<void> {
  return new Operation('POST', `/v1/runs/${run}/hibernate`, ignore, undefined, STATE_TIMEOUT);
}

export function resume(run: string): Operation<void> {
  return new Operation('POST', `/v1/runs/${run}/resume`, ignore, undefined, STATE_TIMEOUT);
}

export function snapshot(run: string): Operation<string> {
  const path = `/v1/runs/${run}/snapshot`;
  const parse = (content: Buffer): string => stringOf(parsed(content), 'snapshot_id');
  return new Operation('POST', path, parse, undefined, STATE_TIMEOUT);
}

export function restore(snapshotId: string): Operation<SandboxInfo> {
  const body = { snapshot_id: snapshotId };
  return new Operation('POST', '/v1/runs/restore', info, body, STATE_TIMEOUT);
}

export function snapshots(): Operation<SnapshotInfo[]> {
  return new Operation('GET', '/v1/snapshots', snapshotInfos);
}

export function deleteSnapshot(snapshotId: string): Operation<void> {
  // Encoded, so that a text that is not an id cannot change the path.
  return new Operation('DELETE', `/v1/snapshots/${encodeName(snapshotId)}`, ignore);
}

export function destroy(run: string): Operation<DestroyStats> {
  return new Operation('DELETE', `/v1/runs/${run}`, destroyStats);
}

/** A command, and what applies to it alone. */
export interface Command {
  readonly command: string | readonly string[];
  /** The timeout in seconds. */
  readonly timeout: number;
  readonly env?: CommandOptions['env'];
  readonly cwd?: CommandOptions['cwd'];
  readonly stdin?: CommandOptions['stdin'];
}

/** Returns the body of the request that runs a command. */
export function commandBody({ command, timeout, env, cwd, stdin }: Command): JsonObject {
  const body: Record<string, unknown> = { command, timeout: finite(timeout, 'the timeout') };
  if (env && Object.keys(env).length > 0) body['env'] = env;
  if (cwd !== undefined) body['cwd'] = cwd;
  if (stdin !== undefined) body['stdin'] = stdin;
  return body;
}

export function execute(run: string, command: Command): Operation<ExecResult> {
  const timeout = responseTimeout(command.timeout, RESPONSE_GRACE);
  return new Operation('POST', `/v1/runs/${run}/exec`, execResult, commandBody(command), timeout);
}

export function executeBytes(run: string, command: Command): Operation<ExecBytesResult> {
  const body = { ...commandBody(command), encoding: 'base64' };
  const timeout = responseTimeout(command.timeout, RESPONSE_GRACE);
  return new Operation('POST', `/v1/runs/${run}/exec`, execBytesResult, body, timeout, true);
}

export function executeStream(run: string, command: Command): Operation<ExecResult> {
  const path = `/v1/runs/${run}/exec/stream`;
  const timeout = responseTimeout(command.timeout, RESPONSE_GRACE);
  return new Operation('POST', path, execResult, commandBody(command), timeout);
}

/** `mode` may be that of `stat`, which has 16 bits. The lower nine, the permissions, are sent. */
export function upload(run: string, path: string, mode?: number): Operation<void> {
  if (mode !== undefined && !(Number.isInteger(mode) && mode >= 0 && mode < 1 << 16)) {
    throw new IsorunError(`mode is ${String(mode)}: give permissions as a number, such as 0o644`);
  }
  const query = mode === undefined ? '' : `&mode=${(mode & 0o777).toString(8)}`;
  const target = `/v1/runs/${run}/files/upload?path=${encodeName(path)}${query}`;
  return new Operation('POST', target, ignore);
}

export function download(run: string, path: string): Operation<Uint8Array> {
  const target = `/v1/runs/${run}/files/download?path=${encodeName(path)}`;
  return new Operation('GET', target, bytesOf);
}

export function ls(run: string, path: string): Operation<string[]> {
  return new Operation('GET', `/v1/runs/${run}/files?path=${encodeName(path)}`, entries);
}

/** Returns the read timeout of an operation that the server ends after `timeout` seconds. */
export function responseTimeout(timeout: number, grace: number): number {
  return timeout > 0 ? timeout + grace : NO_TIMEOUT;
}

/** Refuses numbers that JSON cannot express, and which would be sent as `null`. */
export function finite(value: number, what: string): number {
  if (!Number.isFinite(value)) {
    throw new IsorunError(`${what} is ${String(value)}: give a finite number`);
  }
  return value;
}

/**
 * Returns the exception for an error response. `isEncoded` says whether the output of a command
 * is in base64.
 */
export function errorResponse(status: number, content: Buffer, isEncoded = false): IsorunError {
  let body: JsonObject;
  let message: string;
  let kind: string;
  try {
    body = parsed(content);
    message = stringOf(body, 'error');
    kind = stringOf(body, 'code');
  } catch {
    // The response may be of a proxy.
    const text = `the server responded with status ${status}: ${excerpt(content)}`;
    return new IsorunError(text, { code: status });
  }
  const output = (name: string): string => {
    const text = typeof body[name] === 'string' ? body[name] : '';
    return isEncoded ? Buffer.from(text, 'base64').toString('utf8') : text;
  };
  return failure(message, status, kind, output('stdout'), output('stderr'));
}

/** Returns the exception for an error of the server, by its name. */
export function failure(
  message: string,
  status: unknown,
  kind: string,
  stdout = '',
  stderr = '',
): IsorunError {
  const code = typeof status === 'number' ? status : undefined;
  if (kind === 'exec_timeout') {
    return new IsorunTimeoutError(message, { code, kind, stdout, stderr });
  }
  return new IsorunError(message, { code, kind });
}

/** Returns the exception for an event or a frame that cannot be understood. */
export function invalidResponse(data: string, cause: unknown): IsorunError {
  return new IsorunError(`the server sent an invalid response: ${data.slice(0, 200)}`, { cause });
}

/** The content of a file, up to a limit in bytes. It yields nothing while it arrives. */
export class BoundedContent extends EventStream<never, Uint8Array> {
  readonly #maxBytes: number;
  readonly #chunks: Uint8Array[] = [];
  #size = 0;

  constructor(maxBytes: number) {
    super();
    if (!(maxBytes >= 0)) {
      throw new IsorunError(`maxBytes is ${String(maxBytes)}: give a number of bytes, from 0`);
    }
    this.#maxBytes = maxBytes;
  }

  override feed(chunk: Uint8Array): never[] {
    this.#size += chunk.byteLength;
    if (this.#size > this.#maxBytes) {
      const text = `the file has more than ${this.#maxBytes} bytes, the limit of this download`;
      throw new IsorunError(text, { kind: 'too_large' });
    }
    this.#chunks.push(chunk);
    return [];
  }

  override result(): Uint8Array {
    return bytesOf(Buffer.concat(this.#chunks));
  }

  protected override event(): undefined {}
}

/** A parser of the response to a streamed command. */
export class ExecEvents extends EventStream<ExecOutput, ExecResult> {
  readonly #output = { stdout: [] as string[], stderr: [] as string[] };
  #exitCode: number | undefined;

  override result(): ExecResult {
    if (this.#exitCode === undefined) {
      throw new IsorunConnectionError('the connection ended before the command did');
    }
    return new ExecResult(this.#exitCode, this.#text('stdout'), this.#text('stderr'));
  }

  protected override event(data: string): ExecOutput | undefined {
    let event: JsonObject;
    let message: string;
    let kind: string;
    try {
      event = parseObject(data);
      const type = stringOf(event, 'type');
      if (type === 'stdout' || type === 'stderr') {
        const text = stringOf(event, 'data');
        this.#output[type].push(text);
        return { type, text };
      }
      if (type === 'exit') this.#exitCode = numberOf(event, 'exit_code');
      // Others are the end, or events of a later server, which this client does not know.
      if (type !== 'error') return undefined;
      message = stringOf(event, 'error');
      kind = stringOf(event, 'code');
    } catch (error) {
      throw invalidResponse(data, error);
    }
    throw failure(message, event['status'], kind, this.#text('stdout'), this.#text('stderr'));
  }

  #text(stream: 'stdout' | 'stderr'): string {
    return this.#output[stream].join('');
  }
}

function createBody(options: CreateOptions): JsonObject {
  const { networkProfile, allow, deny } = options;
  const hasLists = allow !== undefined || deny !== undefined;
  if (networkProfile !== undefined && hasLists) {
    throw new IsorunError('give networkProfile, or allow and deny: they exclude each other');
  }
  const body: Record<string, unknown> = {
    image: options.image,
    timeout: finite(options.sandboxTimeout ?? 300, 'sandboxTimeout'),
  };
  // The defaults depend on the image, and are the server's.
  for (const [name, limit] of [
    ['vcpus', options.vcpus],
    ['mem_mib', options.memMib],
    ['disk_mib', options.diskMib],
  ] as const) {
    if (limit !== undefined) body[name] = finite(limit, name);
  }
  if (options.onIdle !== undefined && options.onIdle !== 'destroy')
    body['on_idle'] = options.onIdle;
  if (options.autoResume) body['auto_resume'] = true;
  if (options.env && Object.keys(options.env).length > 0) body['env'] = options.env;
  if (hasLists) body['network'] = { allow: allow ?? [], deny: deny ?? [] };
  else body['network_profile'] = networkProfile ?? 'default';
  if (options.credentials && Object.keys(options.credentials).length > 0) {
    body['credentials'] = options.credentials;
  }
  return body;
}

/** Parses the body of a response. */
export function parsed(content: Buffer): JsonObject {
  return parseObject(content.toString('utf8'));
}

/** Returns an array whose buffer contains nothing else. Short ones share that of the process. */
function bytesOf(content: Buffer): Uint8Array {
  return content.buffer.byteLength === content.byteLength
    ? new Uint8Array(content.buffer)
    : new Uint8Array(content);
}

function ignore(): void {}

function info(content: Buffer): SandboxInfo {
  return infoOf(parsed(content));
}

function infoOf(body: JsonObject): SandboxInfo {
  return {
    id: stringOf(body, 'id'),
    image: stringOf(body, 'image'),
    vcpus: numberOf(body, 'vcpus'),
    memMib: numberOf(body, 'mem_mib'),
    diskMib: numberOf(body, 'disk_mib'),
    createMs: numberOf(body, 'create_ms'),
    status: stringOf(body, 'status'),
    createdAt: stringOf(body, 'created_at'),
    portUrl: optionalStringOf(body, 'port_url'),
  };
}

function forks(content: Buffer): SandboxInfo[] {
  return listOf(parsed(content), 'forks').map((body) => infoOf(asObject(body)));
}

function snapshotInfos(content: Buffer): SnapshotInfo[] {
  return listOf(parsed(content), 'snapshots').map((item) => {
    const body = asObject(item);
    return {
      id: stringOf(body, 'id'),
      runId: stringOf(body, 'run_id'),
      image: optionalStringOf(body, 'image'),
      sizeBytes: numberOf(body, 'size_bytes'),
      createdAt: stringOf(body, 'created_at'),
    };
  });
}

function execResult(content: Buffer): ExecResult {
  const body = parsed(content);
  return new ExecResult(
    numberOf(body, 'exit_code'),
    stringOf(body, 'stdout'),
    stringOf(body, 'stderr'),
    body['stdout_truncated'] === true,
    body['stderr_truncated'] === true,
  );
}

function execBytesResult(content: Buffer): ExecBytesResult {
  const body = parsed(content);
  return new ExecBytesResult(
    numberOf(body, 'exit_code'),
    decoded(body, 'stdout'),
    decoded(body, 'stderr'),
    body['stdout_truncated'] === true,
    body['stderr_truncated'] === true,
  );
}

function decoded(body: JsonObject, name: string): Uint8Array {
  const text = stringOf(body, name);
  const bytes = Buffer.from(text, 'base64');
  // Node.js ignores what is not base64.
  if (bytes.toString('base64') !== text) throw new TypeError(`${name} is not base64`);
  return bytesOf(bytes);
}

function destroyStats(content: Buffer): DestroyStats {
  const body = parsed(content);
  return {
    cpuMs: numberOf(body, 'cpu_ms'),
    memPeakBytes: numberOf(body, 'mem_peak_bytes'),
    diskUsedBytes: numberOf(body, 'disk_used_bytes'),
    uptimeMs: numberOf(body, 'uptime_ms'),
    costCents: typeof body['cost_cents'] === 'number' ? body['cost_cents'] : 0,
  };
}

function entries(content: Buffer): string[] {
  const body = parsed(content);
  if (!('encoded_entries' in body)) return stringsOf(body, 'entries');
  return stringsOf(body, 'encoded_entries').map(decodeName);
}

function excerpt(content: Buffer): string {
  return content.toString('utf8', 0, 200);
}
