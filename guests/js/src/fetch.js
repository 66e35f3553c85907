// `fetch`, over the contract's plain calls. The engine's own classes are kept:
// a `Request` is what it makes of the arguments, the answer is its `Response`.
// (Its own `fetch` never lets go of the handles that it opens.)

import * as host from 'isola:sandbox/host@0.1.0';
import {
  define,
  getOwnPropertyDescriptor,
  getPrototypeOf,
  isArray,
  PlainObject,
  SafePromise,
  SafeString,
  SafeTypeError,
  uncurry,
} from './intrinsics.js';
import { abandon, news, start, tell } from './pending.js';
import { toJson } from './values.js';

const { DOMException, Headers, ReadableStream, Request, Response, Uint8Array } = globalThis;
const getter = (constructor, name) => uncurry(getOwnPropertyDescriptor(constructor.prototype, name).get);
const methodOf = getter(Request, 'method');
const urlOf = getter(Request, 'url');
const headersOf = getter(Request, 'headers');
const bytesOf = uncurry(Request.prototype.arrayBuffer);
const hasHeader = uncurry(Headers.prototype.has);
const setHeader = uncurry(Headers.prototype.set);
const eachHeader = uncurry(Headers.prototype.forEach);

/** Answers with these have no body, as in the Fetch standard. */
const BODILESS = { __proto__: null, 101: true, 204: true, 205: true, 304: true };

const failed = (reason) => new SafeTypeError(`fetch failed: ${reason}`);

async function fetch(input, init = undefined) {
  const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined);
  if (signal?.aborted) throw aborted(signal);
  const request = toRequest(input, init);
  const message = {
    method: methodOf(request),
    url: urlOf(request),
    headers: [],
    body: { tag: 'none' },
    firstByteTimeout: undefined,
  };
  let count = 0;
  eachHeader(headersOf(request), (value, name) => {
    message.headers[count++] = [name, value];
  });
  if (message.method !== 'GET' && message.method !== 'HEAD') {
    const body = new Uint8Array(await bytesOf(request));
    if (body.length > 0) message.body = { tag: 'whole', val: body };
  }
  const id = start((number) => host.fetch(number, message), failed);
  const outcome = await untilAborted(news(id), id, signal);
  if (outcome.tag === 'failed') throw failed(outcome.val);
  return toResponse(id, outcome.val, message.url, signal);
}

function toRequest(input, init) {
  if (!isJsonBody(init?.body)) return init === undefined ? new Request(input) : new Request(input, init);
  const headers = new Headers(init.headers ?? input.headers);
  if (!hasHeader(headers, 'content-type')) setHeader(headers, 'content-type', 'application/json');
  return new Request(input, { ...init, headers, body: toJson(init.body) });
}

function toResponse(id, { status, headers, body, complete }, url, signal) {
  const bodiless = BODILESS[status] === true;
  if (bodiless) abandon(id);
  const content = complete ? body : bodyStream(id, signal, body);
  const response = new Response(bodiless ? null : content, { status, headers });
  define(response, 'url', url, true);
  return response;
}

/** The body, read as it is asked for, after what came of it already. */
function bodyStream(id, signal, first) {
  return new ReadableStream(
    {
      start(controller) {
        if (first.length > 0) controller.enqueue(first);
      },
      async pull(controller) {
        tell(() => host.read(id), failed);
        const outcome = await untilAborted(news(id), id, signal);
        if (outcome.tag === 'chunk') controller.enqueue(outcome.val);
        else if (outcome.tag === 'end') controller.close();
        else throw failed(outcome.val);
      },
      cancel() {
        abandon(id);
      },
    },
    { highWaterMark: 0 },
  );
}

/** Waits for news, or for the signal, which closes the connection. */
function untilAborted(promise, id, signal) {
  if (signal === undefined || signal === null) return promise;
  return new SafePromise((resolve, reject) => {
    const stop = () => {
      abandon(id);
      reject(aborted(signal));
    };
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    pass(promise, (outcome) => {
      signal.removeEventListener('abort', stop);
      resolve(outcome);
    });
  });
}

async function pass(promise, next) {
  next(await promise);
}

/** What an aborted fetch rejects with: always an error by that name. */
function aborted({ reason }) {
  const { name } = reason ?? {};
  if (name === 'AbortError' || name === 'TimeoutError') return reason;
  return new DOMException(reason === undefined ? 'the fetch was aborted' : SafeString(reason), 'AbortError');
}

function isJsonBody(body) {
  if (typeof body !== 'object' || body === null) return false;
  if (isArray(body)) return true;
  const prototype = getPrototypeOf(body);
  return prototype === PlainObject || prototype === null;
}

export function installFetch(global) {
  define(global, 'fetch', fetch, true);
}
