/** The protocol of a shell over a WebSocket, without any I/O. */

import { TextDecoder } from 'node:util';

import type { Target } from './config.js';
import { IsorunConnectionError, IsorunError } from './errors.js';
import { type JsonObject, numberOf, parseObject, stringOf } from './json.js';
import { encodeName } from './names.js';
import { failure } from './protocol.js';
import { type ExecOutput, ExecResult } from './types.js';

/** Returns the URL for opening a shell or attaching to an existing one. */
export function address(
  target: Target,
  run: string,
  session: string | undefined,
  cwd: string | undefined,
): string {
  const url = `ws${target.url.slice('http'.length)}/v1/runs/${run}/shell`;
  if (session !== undefined) return `${url}?session=${encodeName(session)}`;
  return cwd === undefined ? url : `${url}?cwd=${encodeName(cwd)}`;
}

/** Returns the error for a connection that failed without a final message. */
export function connectionLost(reason: string, cause?: unknown): IsorunConnectionError {
  return new IsorunConnectionError(`the connection to the shell failed: ${reason}`, { cause });
}

/** A frame of the server, other than a chunk of output. */
export type ShellFrame =
  | { readonly type: 'ready' }
  /** A command, or the shell itself, has ended. */
  | { readonly type: 'ended'; readonly result: ExecResult }
  /** A message of a later server, which this client does not know. */
  | { readonly type: 'unknown' };

/** The state of a shell in the client. */
export class ShellState {
  session: string | undefined;
  isClosed = false;
  /** True if a command was abandoned whose result has not arrived. */
  isPending = false;
  readonly #decoders = { stdout: new Utf8Decoder(), stderr: new Utf8Decoder() };

  constructor(session: string | undefined) {
    this.session = session;
  }

  ensureOpen(): void {
    if (this.isClosed) throw new IsorunError('Shell is closed');
  }

  runFrame(command: string, timeout: number): string {
    return JSON.stringify({ type: 'run', command, timeout });
  }

  /** Parses a frame. Throws the exception for an error frame. */
  feed(frame: string | Uint8Array): ExecOutput | ShellFrame {
    if (typeof frame !== 'string') {
      const type = frame[0] === 1 ? 'stdout' : frame[0] === 2 ? 'stderr' : undefined;
      if (type === undefined) throw new IsorunError('the server sent an invalid frame');
      return { type, text: this.#decoders[type].feed(frame.subarray(1)) };
    }
    let error: IsorunError;
    try {
      const event = parseObject(frame);
      switch (stringOf(event, 'type')) {
        case 'ready':
          this.session = stringOf(event, 'session');
          return { type: 'ready' };
        case 'result':
          return { type: 'ended', result: this.#take(numberOf(event, 'exit_code')) };
        case 'closed': {
          const result = this.#take(numberOf(event, 'exit_code'));
          this.isClosed = true;
          return { type: 'ended', result };
        }
        case 'timeout': {
          const message = stringOf(event, 'error');
          const { stdout, stderr } = this.#take(124);
          error = failure(message, 504, 'exec_timeout', stdout, stderr);
          break;
        }
        case 'error':
          error = this.#error(event);
          break;
        default:
          return { type: 'unknown' };
      }
    } catch (cause) {
      throw new IsorunError(`the server sent an invalid frame: ${frame.slice(0, 200)}`, { cause });
    }
    throw error;
  }

  discardOutput(): void {
    this.#take(0);
  }

  #error(event: JsonObject): IsorunError {
    const kind = stringOf(event, 'code');
    const error = failure(stringOf(event, 'error'), event['status'], kind);
    // A hibernated shell can be attached to again after `resume`.
    this.isClosed = kind !== 'run_hibernated';
    return error;
  }

  #take(exitCode: number): ExecResult {
    const { stdout, stderr } = this.#decoders;
    return new ExecResult(exitCode, stdout.take(), stderr.take());
  }
}

/** A decoder of one stream of output, which never splits a character. */
class Utf8Decoder {
  #decoder = newDecoder();
  #parts: string[] = [];

  feed(content: Uint8Array): string {
    const text = this.#decoder.decode(content, { stream: true });
    this.#parts.push(text);
    return text;
  }

  /** Returns the whole text, and starts again. */
  take(): string {
    const text = this.#parts.join('') + this.#decoder.decode();
    this.#parts = [];
    this.#decoder = newDecoder();
    return text;
  }
}

function newDecoder(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}
