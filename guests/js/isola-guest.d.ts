// The globals of a script in an isola JavaScript sandbox. Configure your editor with this
// file and `"lib": ["esnext"]`, without `dom` and without the types of Node.js:
//
//   { "compilerOptions": { "lib": ["esnext"], "types": [], "noEmit": true },
//     "files": ["isola-guest.d.ts", "script.ts"] }

/** A value that is passed between host and guest. */
type Json =
  null | boolean | number | bigint | string | Json[] | { [name: string]: Json | undefined };

/** Calls a function of the host; the promise is rejected with a `HostcallError`. */
declare function hostcall<T = any>(callType: string, payload?: unknown): Promise<T>;

/** A hostcall was refused or failed. The message is the host's. */
declare class HostcallError extends Error {}

/**
 * Shows values as results of the code, in code that the host runs by `run_code`. An object
 * whose keys are all MIME types is shown as these types.
 */
declare function display(...values: unknown[]): void;

/** The environment variables that the host set. Nothing else of Node.js exists. */
declare const process: { readonly env: Readonly<Record<string, string | undefined>> };

/** The arguments of the program. */
declare let scriptArgs: string[];

/**
 * The files of the sandbox: its own, and those of its mounts. Relative paths start in
 * `/root`. A failure is an error with a `code` such as `ENOENT`.
 */
declare const files: {
  /** Returns the content of a file: bytes, or with `'utf8'` text. */
  read(path: string): Uint8Array;
  read(path: string, encoding: 'utf8' | 'utf-8'): string;
  /**
   * Writes a file, in place of its content or at its end. Creates it and the missing
   * directories above it.
   */
  write(path: string, content: string | BufferSource, options?: { append?: boolean }): void;
  /** Returns the entries of a directory, sorted by name. */
  list(path?: string): FileEntry[];
  /** Removes a file, or an empty directory. */
  remove(path: string): void;
};

interface FileEntry {
  name: string;
  kind: 'file' | 'directory' | 'link' | 'other';
  /** In bytes; 0 for what is not a file. */
  size: number;
  modified: Date;
}

// HTTP, which is disabled unless the host allows it.

declare function fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;

type RequestInfo = Request | string;
type HeadersInit = Headers | Iterable<readonly [string, string]> | Record<string, string>;
type BufferSource = ArrayBufferView | ArrayBuffer;
/** A plain object or an array is sent as JSON. */
type BodyInit =
  | string
  | BufferSource
  | URLSearchParams
  | Blob
  | FormData
  | ReadableStream<Uint8Array>
  | readonly unknown[]
  | { readonly [name: string]: unknown };

interface RequestInit {
  method?: string;
  headers?: HeadersInit;
  body?: BodyInit | null;
  signal?: AbortSignal | null;
  /** `manual`, the default, returns the response with its status 3xx. */
  redirect?: 'manual' | 'follow' | 'error';
  /** Required if the body is a stream. */
  duplex?: 'half';
  /** Accepted without effect. */
  cache?: string;
  /** Accepted without effect. */
  credentials?: string;
  /** Accepted without effect. */
  mode?: string;
}

interface ResponseInit {
  status?: number;
  statusText?: string;
  headers?: HeadersInit;
}

interface Body {
  readonly body: ReadableStream<Uint8Array> | null;
  readonly bodyUsed: boolean;
  text(): Promise<string>;
  json(): Promise<any>;
  arrayBuffer(): Promise<ArrayBuffer>;
  bytes(): Promise<Uint8Array>;
  blob(): Promise<Blob>;
  formData(): Promise<FormData>;
}

declare class Request implements Body {
  constructor(input: RequestInfo | URL, init?: RequestInit);
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly signal: AbortSignal;
  readonly redirect: 'manual' | 'follow' | 'error';
  readonly duplex: 'half';
  readonly cache: string;
  readonly credentials: string;
  readonly mode: string;
  clone(): Request;
}
interface Request extends Body {}

declare class Response implements Body {
  constructor(body?: BodyInit | null, init?: ResponseInit);
  static json(data: unknown, init?: ResponseInit): Response;
  static redirect(url: string | URL, status?: number): Response;
  static error(): Response;
  readonly status: number;
  readonly statusText: string;
  readonly ok: boolean;
  readonly headers: Headers;
  readonly url: string;
  readonly redirected: boolean;
  readonly type: 'basic' | 'default' | 'error';
  clone(): Response;
}
interface Response extends Body {}

declare class Headers {
  constructor(init?: HeadersInit);
  append(name: string, value: string): void;
  set(name: string, value: string): void;
  get(name: string): string | null;
  has(name: string): boolean;
  delete(name: string): void;
  getSetCookie(): string[];
  forEach(callback: (value: string, name: string, headers: Headers) => void): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
}

declare class AbortController {
  readonly signal: AbortSignal;
  abort(reason?: any): void;
}

declare class AbortSignal extends EventTarget {
  private constructor();
  static abort(reason?: any): AbortSignal;
  static timeout(milliseconds: number): AbortSignal;
  static any(signals: Iterable<AbortSignal>): AbortSignal;
  readonly aborted: boolean;
  readonly reason: any;
  onabort: ((this: AbortSignal, event: Event) => void) | null;
  throwIfAborted(): void;
}

declare class DOMException extends Error {
  constructor(message?: string, name?: string);
  readonly code: number;
}

declare class URL {
  constructor(url: string | URL, base?: string | URL);
  static parse(url: string | URL, base?: string | URL): URL | null;
  static canParse(url: string | URL, base?: string | URL): boolean;
  href: string;
  readonly origin: string;
  protocol: string;
  username: string;
  password: string;
  host: string;
  hostname: string;
  port: string;
  pathname: string;
  search: string;
  readonly searchParams: URLSearchParams;
  hash: string;
  toString(): string;
  toJSON(): string;
}

declare class URLSearchParams {
  constructor(
    init?: string | URLSearchParams | Iterable<readonly [string, string]> | Record<string, string>,
  );
  readonly size: number;
  append(name: string, value: string): void;
  delete(name: string): void;
  get(name: string): string | null;
  getAll(name: string): string[];
  has(name: string): boolean;
  set(name: string, value: string): void;
  sort(): void;
  forEach(callback: (value: string, name: string, parameters: URLSearchParams) => void): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
  toString(): string;
}

declare class Blob {
  constructor(parts?: readonly (string | BufferSource | Blob)[], options?: { type?: string });
  readonly size: number;
  readonly type: string;
  slice(start?: number, end?: number, type?: string): Blob;
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
  bytes(): Promise<Uint8Array>;
  stream(): ReadableStream<Uint8Array>;
}

declare class File extends Blob {
  constructor(
    parts: readonly (string | BufferSource | Blob)[],
    name: string,
    options?: { type?: string; lastModified?: number },
  );
  readonly name: string;
  readonly lastModified: number;
}

declare class FormData {
  append(name: string, value: string | Blob, filename?: string): void;
  delete(name: string): void;
  get(name: string): string | File | null;
  getAll(name: string): (string | File)[];
  has(name: string): boolean;
  set(name: string, value: string | Blob, filename?: string): void;
  forEach(callback: (value: string | File, name: string, form: FormData) => void): void;
  entries(): IterableIterator<[string, string | File]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string | File>;
  [Symbol.iterator](): IterableIterator<[string, string | File]>;
}

// Timers. Those that are pending at the end of a call are dropped.

declare function setTimeout<A extends unknown[]>(
  callback: (...args: A) => void,
  delayMs?: number,
  ...args: A
): number;
declare function setInterval<A extends unknown[]>(
  callback: (...args: A) => void,
  delayMs?: number,
  ...args: A
): number;
declare function clearTimeout(timerId: number | undefined): void;
declare function clearInterval(timerId: number | undefined): void;
declare function queueMicrotask(callback: () => void): void;

/** Each record is sent to the host, with its level. */
declare const console: {
  log(...values: unknown[]): void;
  info(...values: unknown[]): void;
  debug(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
  trace(...values: unknown[]): void;
  dir(value: unknown, options?: { depth?: number }): void;
  dirxml(...values: unknown[]): void;
  table(data: unknown, columns?: readonly string[]): void;
  assert(condition?: unknown, ...values: unknown[]): void;
  group(...values: unknown[]): void;
  groupCollapsed(...values: unknown[]): void;
  groupEnd(): void;
  count(label?: string): void;
  countReset(label?: string): void;
  time(label?: string): void;
  timeLog(label?: string, ...values: unknown[]): void;
  timeEnd(label?: string): void;
};

// Streams, events, text encoding and other globals.

declare class ReadableStream<T = any> {
  constructor(
    source?: {
      start?(controller: ReadableStreamDefaultController<T>): void | PromiseLike<void>;
      pull?(controller: ReadableStreamDefaultController<T>): void | PromiseLike<void>;
      cancel?(reason?: any): void | PromiseLike<void>;
    },
    strategy?: { highWaterMark?: number; size?(chunk: T): number },
  );
  static from<T>(items: Iterable<T> | AsyncIterable<T>): ReadableStream<T>;
  readonly locked: boolean;
  cancel(reason?: any): Promise<void>;
  getReader(): ReadableStreamDefaultReader<T>;
  tee(): [ReadableStream<T>, ReadableStream<T>];
  pipeTo(target: WritableStream<T>): Promise<void>;
  pipeThrough<U>(pair: {
    writable: WritableStream<T>;
    readable: ReadableStream<U>;
  }): ReadableStream<U>;
  values(options?: { preventCancel?: boolean }): AsyncIterableIterator<T>;
  [Symbol.asyncIterator](): AsyncIterableIterator<T>;
}
interface ReadableStreamDefaultController<T> {
  enqueue(chunk: T): void;
  close(): void;
  error(reason?: any): void;
  readonly desiredSize: number | null;
}
interface ReadableStreamDefaultReader<T> {
  read(): Promise<{ done: false; value: T } | { done: true; value: undefined }>;
  cancel(reason?: any): Promise<void>;
  releaseLock(): void;
  readonly closed: Promise<void>;
}
declare class WritableStream<T = any> {
  constructor(sink?: {
    start?(controller: unknown): void | PromiseLike<void>;
    write?(chunk: T): void | PromiseLike<void>;
    close?(): void | PromiseLike<void>;
    abort?(reason?: any): void | PromiseLike<void>;
  });
  readonly locked: boolean;
}
declare class TransformStream<I = any, O = any> {
  constructor(transformer?: {
    transform?(chunk: I, controller: { enqueue(chunk: O): void }): void | PromiseLike<void>;
    flush?(controller: { enqueue(chunk: O): void }): void | PromiseLike<void>;
  });
  readonly readable: ReadableStream<O>;
  readonly writable: WritableStream<I>;
}
declare class CompressionStream {
  constructor(format: 'gzip' | 'deflate' | 'deflate-raw');
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<BufferSource>;
}
declare class DecompressionStream {
  constructor(format: 'gzip' | 'deflate' | 'deflate-raw');
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<BufferSource>;
}

declare class Event {
  constructor(
    type: string,
    options?: { bubbles?: boolean; cancelable?: boolean; composed?: boolean },
  );
  readonly type: string;
  readonly target: EventTarget | null;
  readonly currentTarget: EventTarget | null;
  readonly defaultPrevented: boolean;
  readonly cancelable: boolean;
  readonly timeStamp: number;
  preventDefault(): void;
  stopImmediatePropagation(): void;
}
declare class CustomEvent<T = any> extends Event {
  constructor(type: string, options?: { detail?: T; cancelable?: boolean });
  readonly detail: T;
}
type Listener = ((event: any) => void) | { handleEvent(event: any): void };
declare class EventTarget {
  addEventListener(
    type: string,
    listener: Listener | null,
    options?: boolean | { capture?: boolean; once?: boolean; signal?: AbortSignal },
  ): void;
  removeEventListener(
    type: string,
    listener: Listener | null,
    options?: boolean | { capture?: boolean },
  ): void;
  dispatchEvent(event: Event): boolean;
}

declare class TextEncoder {
  encode(text?: string): Uint8Array<ArrayBuffer>;
  encodeInto(text: string, target: Uint8Array): { read: number; written: number };
}
declare class TextDecoder {
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  decode(bytes?: BufferSource, options?: { stream?: boolean }): string;
}
declare class TextDecoderStream {
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  readonly encoding: string;
  readonly readable: ReadableStream<string>;
  readonly writable: WritableStream<BufferSource>;
}
declare class TextEncoderStream {
  constructor();
  readonly encoding: string;
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<string>;
}
declare class MessageEvent<T = any> extends Event {
  constructor(type: string, options?: { data?: T; ports?: MessagePort[] });
  readonly data: T;
  readonly ports: readonly MessagePort[];
}
declare class MessagePort extends EventTarget {
  onmessage: ((event: MessageEvent) => void) | null;
  postMessage(message: any, transfer?: readonly (ArrayBuffer | MessagePort)[]): void;
  start(): void;
  close(): void;
}
declare class MessageChannel {
  constructor();
  readonly port1: MessagePort;
  readonly port2: MessagePort;
}
declare namespace Intl {
  /** Adds the data of a locale, which `derive-locale.mjs` writes. */
  function addLocaleData(data: { locale: string }): void;
}
declare function structuredClone<T>(value: T, options?: { transfer?: readonly ArrayBuffer[] }): T;
declare function atob(text: string): string;
declare function btoa(text: string): string;
declare const performance: { now(): number; readonly timeOrigin: number };
declare const crypto: {
  getRandomValues<T extends ArrayBufferView>(array: T): T;
  randomUUID(): string;
  readonly subtle: { digest(algorithm: string, data: BufferSource): Promise<ArrayBuffer> };
};

interface ImportMeta {
  /** The name under which the module was loaded. */
  readonly url: string;
}
