/**
 * HTTP requests to a server.
 *
 * They use `node:http` and not `fetch`, because `fetch` of Node.js gives up when a response has
 * not begun after five minutes, which a command may take.
 */

import * as http from 'node:http';
import * as https from 'node:https';
import type { Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { urlToHttpOptions } from 'node:url';

import { onAbort } from './abort.js';
import { isLoopback, type Target } from './config.js';
import { IsorunConnectionError, IsorunTimeoutError } from './errors.js';
import type { EventStream } from './events.js';
import { CONNECT_TIMEOUT, isSuccess, type Operation } from './protocol.js';
import { VERSION } from './version.js';

/** Connections that are kept open between requests, at most. */
const MAX_IDLE_CONNECTIONS = 100;
/**
 * The server closes idle connections. One that was idle for longer, in milliseconds, is not
 * used again, because a request on it could be lost.
 */
const MAX_IDLE_MS = 5_000;
/** The size of the chunks of an upload, in bytes. A shorter body is sent with its head. */
const CHUNK_BYTES = 1 << 20;
/** The time for the server to ask for the content of an upload, in milliseconds. */
const CONTINUE_TIMEOUT_MS = 1_000;
/** The longest delay of a timer, in milliseconds. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** The content of an upload. */
export type Content = AsyncIterable<Uint8Array> | Uint8Array;

/** A client of a server. */
export class Transport {
  readonly target: Target;
  #agent: http.Agent | undefined;
  readonly #idleSince = new WeakMap<Socket, number>();

  constructor(target: Target) {
    this.target = target;
  }

  async send<T>(
    operation: Operation<T>,
    signal: AbortSignal | undefined,
    content?: Content,
  ): Promise<T> {
    const exchange = this.#start(operation, signal);
    try {
      const response = await exchange.open(operation, content);
      const body = await exchange.readAll(response);
      return operation.parseResponse(response.statusCode ?? 0, body);
    } finally {
      exchange.finish();
    }
  }

  /** Sends a request, and passes each event of the response to `listen`, which is awaited. */
  async stream<E, T>(
    operation: Operation<T>,
    events: EventStream<E, T>,
    signal: AbortSignal | undefined,
    listen: (event: E) => unknown,
  ): Promise<T> {
    const exchange = this.#start(operation, signal);
    try {
      const response = await exchange.open(operation, undefined);
      const status = response.statusCode ?? 0;
      if (!isSuccess(status)) {
        return operation.parseResponse(status, await exchange.readAll(response));
      }
      await exchange.read(response, async (chunk) => {
        for (const event of events.feed(chunk)) {
          await listen(event);
          exchange.throwIfAborted();
        }
      });
      return events.result();
    } finally {
      exchange.finish();
    }
  }

  /**
   * Closes the connections, each when its request has ended. The next operation opens new ones.
   */
  close(): void {
    const agent = this.#agent;
    this.#agent = undefined;
    agent?.on('free', (socket: Socket) => socket.destroy());
    for (const socket of idleSockets(agent)) socket.destroy();
  }

  #start(operation: Operation<unknown>, signal: AbortSignal | undefined): Exchange {
    signal?.throwIfAborted();
    this.#agent ??= createAgent(this.target, this.#idleSince);
    destroyStale(this.#agent, this.#idleSince);
    return new Exchange(this.target, this.#agent, operation.readTimeout, signal);
  }
}

/** One request and its response. */
class Exchange {
  readonly #target: Target;
  readonly #agent: http.Agent;
  readonly #readTimeout: number | undefined;
  readonly #forgetSignal: () => void;
  #request: http.ClientRequest | undefined;
  #response: http.IncomingMessage | undefined;
  #isConnected = false;
  #timer: NodeJS.Timeout | undefined;
  /** Why this client has given up, if it has. */
  #cause: { readonly error: unknown } | undefined;

  constructor(
    target: Target,
    agent: http.Agent,
    readTimeout: number | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.#target = target;
    this.#agent = agent;
    this.#readTimeout = readTimeout;
    this.#forgetSignal = onAbort(signal, () => this.#giveUp(signal?.reason));
  }

  /** Sends the request, and returns the response when its head has arrived. */
  async open(
    operation: Operation<unknown>,
    content: Content | undefined,
  ): Promise<http.IncomingMessage> {
    const base = new URL(this.#target.url);
    const json = operation.body === undefined ? undefined : JSON.stringify(operation.body);
    const body = json === undefined ? content : Buffer.from(json);
    const headers = requestHeaders(this.#target);
    if (json !== undefined) headers['content-type'] = 'application/json';
    const isShort = body instanceof Uint8Array && body.byteLength <= CHUNK_BYTES;
    if (body instanceof Uint8Array) headers['content-length'] = String(body.byteLength);
    else if (body !== undefined) headers['transfer-encoding'] = 'chunked';
    // The server can refuse the request before the content is sent.
    if (body !== undefined && !isShort) headers['expect'] = '100-continue';
    const request = (base.protocol === 'https:' ? https : http).request({
      ...urlToHttpOptions(base),
      path: base.pathname.replace(/\/+$/, '') + operation.target,
      method: operation.method,
      headers,
      agent: this.#agent,
    });
    this.#request = request;
    request.once('socket', (socket) => this.#watchConnection(socket));
    this.#arm(CONNECT_TIMEOUT);
    const response = new Promise<http.IncomingMessage>((resolve, reject) => {
      request.once('response', (response) => {
        this.#response = response;
        resolve(response);
      });
      // The listener stays, since an upload can fail after its response has arrived.
      request.on('error', reject);
      request.once('close', () => reject(new Error('the connection was closed')));
    });
    if (body === undefined || isShort) request.end(body);
    else void this.#upload(request, body instanceof Uint8Array ? slices(body) : body);
    try {
      return await response;
    } catch (error) {
      throw this.#failure(error);
    }
  }

  async readAll(response: http.IncomingMessage): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    await this.read(response, (chunk) => void chunks.push(chunk));
    return Buffer.concat(chunks);
  }

  /** Reads the body, as fast as `take` accepts it. */
  async read(response: http.IncomingMessage, take: (chunk: Uint8Array) => unknown): Promise<void> {
    const chunks = response[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
    try {
      for (;;) {
        this.#arm(this.#readTimeout);
        let next;
        try {
          next = await chunks.next();
        } catch (error) {
          throw this.#failure(error);
        }
        // The caller may take any time.
        this.#disarm();
        if (next.done) break;
        await take(next.value);
      }
      this.throwIfAborted();
    } catch (error) {
      // Disconnects, so that the server stops what it does for the request.
      response.destroy();
      throw error;
    }
  }

  throwIfAborted(): void {
    if (this.#cause !== undefined) throw this.#cause.error;
  }

  /** Ends the exchange, whose connection is used again only if everything was read. */
  finish(): void {
    this.#disarm();
    this.#forgetSignal();
    const request = this.#request;
    if (request !== undefined && !(request.writableFinished && this.#response?.complete)) {
      request.destroy();
    }
  }

  #giveUp(error: unknown): void {
    this.#cause ??= { error };
    (this.#response ?? this.#request)?.destroy();
  }

  #failure(error: unknown): unknown {
    if (this.#cause !== undefined) return this.#cause.error;
    const { url } = this.#target;
    const reason = describe(error);
    if (this.#isConnected) {
      const text = `the connection to ${url} failed: ${reason}`;
      return new IsorunConnectionError(text, { cause: error });
    }
    const isRefused = (error as NodeJS.ErrnoException).code === 'ECONNREFUSED';
    const hint = isRefused ? '. Start one with `isorun serve`' : '';
    const text = `cannot connect to an isorun server at ${url}: ${reason}${hint}`;
    return new IsorunConnectionError(text, { cause: error });
  }

  #watchConnection(socket: Socket): void {
    const connected = (): void => {
      this.#isConnected = true;
      this.#arm(this.#readTimeout);
    };
    if (!socket.connecting) connected();
    else socket.once('encrypted' in socket ? 'secureConnect' : 'connect', connected);
  }

  async #upload(request: http.ClientRequest, content: AsyncIterable<Uint8Array>): Promise<void> {
    try {
      await firstOf(request, ['continue', 'response', 'close'], CONTINUE_TIMEOUT_MS);
      for await (const chunk of content) {
        // Writing to a connection that the server has closed loses its response, so what has
        // arrived is read first. After a response the rest is of no use.
        await setImmediate();
        await setImmediate();
        if (request.destroyed || this.#response !== undefined) return;
        if (!request.write(chunk)) await firstOf(request, ['drain', 'response', 'close']);
        if (this.#isConnected && this.#response === undefined) this.#arm(this.#readTimeout);
      }
      request.end();
    } catch (error) {
      // Reading the local file has failed.
      this.#giveUp(error);
    }
  }

  #arm(seconds: number | undefined): void {
    this.#disarm();
    if (seconds === undefined || seconds * 1000 > MAX_TIMER_MS) return;
    this.#timer = setTimeout(() => {
      const { url } = this.#target;
      this.#giveUp(
        this.#isConnected
          ? new IsorunTimeoutError(`the server at ${url} did not answer in time`)
          : new IsorunConnectionError(
              `cannot connect to an isorun server at ${url}: no answer within ${seconds} s`,
            ),
      );
    }, seconds * 1000);
  }

  #disarm(): void {
    clearTimeout(this.#timer);
  }
}

/** Returns the headers of every request. */
export function requestHeaders(target: Target): Record<string, string> {
  const headers: Record<string, string> = { 'user-agent': `isorun-typescript/${VERSION}` };
  if (target.key !== undefined) headers['authorization'] = `Bearer ${target.key}`;
  return headers;
}

/** Returns the options of an agent that uses the proxy of the environment. */
export function proxyOptions(target: Target): object {
  // Such settings do not apply to a server on this machine. Versions of Node.js before 24.5 know
  // no such option, and ignore it.
  return isLoopback(target.url) ? {} : { proxyEnv: process.env };
}

/** Returns the reason of a failed connection. */
export function describe(error: unknown): string {
  // A name with several addresses fails with an error for each, and without a message.
  if (error instanceof AggregateError && error.errors.length > 0) return describe(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
}

function createAgent(target: Target, idleSince: WeakMap<Socket, number>): http.Agent {
  const options = {
    keepAlive: true,
    maxFreeSockets: MAX_IDLE_CONNECTIONS,
    ...proxyOptions(target),
  };
  const isEncrypted = /^https:/i.test(target.url);
  const agent = isEncrypted ? new https.Agent(options) : new http.Agent(options);
  agent.on('free', (socket: Socket) => idleSince.set(socket, performance.now()));
  return agent;
}

function destroyStale(agent: http.Agent, idleSince: WeakMap<Socket, number>): void {
  const now = performance.now();
  for (const socket of idleSockets(agent)) {
    if (now - (idleSince.get(socket) ?? now) > MAX_IDLE_MS) socket.destroy();
  }
}

function idleSockets(agent: http.Agent | undefined): Socket[] {
  return Object.values(agent?.freeSockets ?? {}).flatMap((sockets) => sockets ?? []);
}

/** Waits for one of these events, or for a time. */
async function firstOf(
  request: http.ClientRequest,
  events: readonly string[],
  milliseconds?: number,
): Promise<void> {
  if (request.destroyed) return;
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      for (const event of events) request.off(event, done);
      resolve();
    };
    for (const event of events) request.once(event, done);
    if (milliseconds !== undefined) timer = setTimeout(done, milliseconds);
  });
  clearTimeout(timer);
}

async function* slices(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let start = 0; start < bytes.byteLength; start += CHUNK_BYTES) {
    yield bytes.subarray(start, start + CHUNK_BYTES);
  }
}
