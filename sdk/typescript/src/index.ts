/// <reference lib="esnext.disposable" preserve="true" />
/**
 * Linux sandboxes on an isorun server.
 *
 *     import { Sandbox } from '@isorun/sdk';
 *
 *     await using sb = await Sandbox.create({ image: 'host' });
 *     console.log((await sb.exec("python3 -c 'print(2 + 2)'")).stdout);
 *
 * `protocol.ts`, `code-protocol.ts` and `shell-protocol.ts` create requests and read responses,
 * without any I/O; `transport.ts` and `shell-socket.ts` do the I/O.
 */

export {
  type CodeEvent,
  type Context,
  Execution,
  type ExecutionError,
  type Logs,
  Result,
} from './code.js';
export { type Contexts, type CreateContextOptions } from './contexts.js';
export { IsorunConnectionError, IsorunError, IsorunTimeoutError } from './errors.js';
export type {
  CallOptions,
  CommandOptions,
  ConnectOptions,
  CreateOptions,
  DownloadOptions,
  ExecOptions,
  NetworkOptions,
  OutputOptions,
  RestoreOptions,
  SandboxOptions,
  ServerOptions,
  StreamOptions,
  WriteBytesOptions,
} from './options.js';
export type { OutputStream } from './output-stream.js';
export { type CodeStreamOptions, type RunCodeOptions, Sandbox } from './sandbox.js';
export type { Shell, ShellOptions } from './shell.js';
export {
  type DestroyStats,
  ExecBytesResult,
  type ExecOutput,
  ExecResult,
  type SandboxInfo,
  type SnapshotInfo,
} from './types.js';
