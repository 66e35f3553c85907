/**
 * The WebSocket of a shell.
 *
 * The package `ws` is used on every version of Node.js: version 20 has no WebSocket client, and
 * that of later versions can neither read the response of a server that refuses the connection,
 * which says why, nor slow down a server that sends faster than the program reads.
 */

import type { Socket } from 'node:net';
import * as http from 'node:http';
import * as https from 'node:https';

import type { RawData, WebSocket } from 'ws';

import { onAbort } from './abort.js';
import type { Target } from './config.js';
import { IsorunConnectionError, IsorunTimeoutError } from './errors.js';
import { CONNECT_TIMEOUT, errorResponse } from './protocol.js';
import { connectionLost } from './shell-protocol.js';
import { describe, MAX_TIMER_MS, proxyOptions, requestHeaders } from './transport.js';

/** Frames that are kept until they are read, before the server is slowed. */
const MAX_QUEUED_FRAMES = 16;
/** The time for the server to confirm the end of a connection, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;
/** The longest response of a refused connection that is read, in bytes. */
const MAX_REFUSAL_BYTES = 65_536;

export class ShellSocket {
  readonly #socket: WebSocket;
  #connection: Socket | undefined;
  readonly #frames: (string | Uint8Array)[] = [];
  #end: IsorunConnectionError | undefined;
  /** Wakes the function that waits for a frame. */
  #wake: (() => void) | undefined;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('upgrade', (response) => {
      this.#connection = response.socket;
      // A shell that is not in use does not keep the process alive.
      response.socket.unref();
    });
    socket.on('message', (data, isBinary) => {
      this.#frames.push(isBinary ? bytesOf(data) : bytesOf(data).toString('utf8'));
      if (this.#frames.length > MAX_QUEUED_FRAMES) socket.pause();
      this.#wake?.();
    });
    socket.on('error', (error) => {
      this.#end ??= connectionLost(describe(error), error);
      this.#wake?.();
    });
    socket.on('close', (code, reason) => {
      const text = reason.toString('utf8');
      this.#end ??= connectionLost(`it was closed with code ${code}${text && `: ${text}`}`);
      this.#wake?.();
    });
  }

  /** Connects, or throws the exception for the response of the server. */
  static async connect(
    target: Target,
    url: string,
    signal: AbortSignal | undefined,
  ): Promise<ShellSocket> {
    signal?.throwIfAborted();
    const { WebSocket } = await import('ws');
    signal?.throwIfAborted();
    const options = proxyOptions(target);
    const socket = new WebSocket(url, {
      headers: requestHeaders(target),
      agent: url.startsWith('wss:') ? new https.Agent(options) : new http.Agent(options),
      handshakeTimeout: CONNECT_TIMEOUT * 1000,
      perMessageDeflate: false,
    });
    const connected = new ShellSocket(socket);
    let forgetSignal = (): void => {};
    try {
      await new Promise<void>((resolve, reject) => {
        forgetSignal = onAbort(signal, () => reject(signal?.reason));
        socket.once('open', resolve);
        socket.once('error', (error) => {
          const reason = describe(error);
          const text = `cannot connect to an isorun server at ${target.url}: ${reason}`;
          reject(new IsorunConnectionError(text, { cause: error }));
        });
        socket.once('unexpected-response', (_, response) => {
          readRefusal(response).then(
            (body) => reject(errorResponse(response.statusCode ?? 0, body)),
            (error: unknown) => reject(connectionLost(describe(error), error)),
          );
        });
      });
    } catch (error) {
      socket.terminate();
      throw error;
    } finally {
      forgetSignal();
    }
    return connected;
  }

  /**
   * Sends a message. It is no error if the server has closed the connection: a last message of
   * it may still be readable.
   */
  send(text: string): void {
    this.#socket.send(text, () => {});
  }

  /** Sends a binary message, and waits until the operating system has accepted it. */
  async sendBytes(data: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#socket.send(data, (error) => {
        if (error === undefined || error === null) resolve();
        else reject(connectionLost(describe(error), error));
      });
    });
  }

  /** Tells the server that this client exists, which does not answer while it reads nothing. */
  keepAlive(): void {
    this.#socket.pong(undefined, undefined, () => {});
  }

  /** Returns a frame that has arrived already, if there is one. */
  async poll(): Promise<string | Uint8Array | undefined> {
    // What the operating system has received is read first.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#frames.length === 0 && this.#end !== undefined) throw this.#end;
    return this.#next();
  }

  /**
   * Returns the next frame. Throws an `IsorunTimeoutError` if there is none until a time of
   * `performance.now()`, and an `IsorunConnectionError` if the connection has ended.
   */
  async receive(
    deadline: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string | Uint8Array> {
    signal?.throwIfAborted();
    if (this.#frames.length === 0 && this.#end === undefined) {
      await this.#wait(deadline, signal);
    }
    const frame = this.#next();
    if (frame !== undefined) return frame;
    signal?.throwIfAborted();
    if (this.#end !== undefined) throw this.#end;
    throw new IsorunTimeoutError('the server did not answer in time');
  }

  async close(): Promise<void> {
    if (this.#socket.readyState === this.#socket.CLOSED) return;
    this.#connection?.ref();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => this.#socket.terminate(), CLOSE_TIMEOUT_MS);
      this.#socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      // Frames that are not read any more would delay the end.
      this.#socket.removeAllListeners('message');
      this.#socket.resume();
      this.#socket.close();
    });
  }

  /** Waits for a frame, the end, the deadline or the signal, whichever is first. */
  async #wait(deadline: number | undefined, signal: AbortSignal | undefined): Promise<void> {
    this.#connection?.ref();
    let timer: NodeJS.Timeout | undefined;
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    const wake = (): void => this.#wake?.();
    const delay = deadline === undefined ? Infinity : Math.max(0, deadline - performance.now());
    if (delay <= MAX_TIMER_MS) timer = setTimeout(wake, delay);
    const forgetSignal = onAbort(signal, wake);
    try {
      await woken;
    } finally {
      clearTimeout(timer);
      forgetSignal();
      this.#wake = undefined;
      this.#connection?.unref();
    }
  }

  #next(): string | Uint8Array | undefined {
    const frame = this.#frames.shift();
    if (this.#socket.isPaused && this.#frames.length === 0) this.#socket.resume();
    return frame;
  }
}

function bytesOf(data: RawData): Buffer {
  if (Array.isArray(data)) return Buffer.concat(data);
  return data instanceof ArrayBuffer ? Buffer.from(data) : data;
}

async function readRefusal(response: http.IncomingMessage): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    length += chunk.byteLength;
    if (length >= MAX_REFUSAL_BYTES) break;
  }
  return Buffer.concat(chunks);
}
