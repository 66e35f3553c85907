// `fetch`, implemented with functions of the contract. (The engine's own never
// closes the handles that it opens.)

import * as host from 'isola:sandbox/host@0.1.0';
import {
  define,
  getOwnPropertyDescriptor,
  SafePromise,
  SafeString,
  SafeTypeError,
  uncurry,
  whenSettled,
} from './intrinsics.js';
import { isAborted, reasonOf } from './abort.js';
import { arrived, arriving, bytesOrStream } from './body.js';
import { decoded, encodings } from './encodings.js';
import { listen, unlisten } from './events.js';
import { abandon, completion, finish, send as sendCommand, start, write } from './pending.js';
import { createRequestState } from './request.js';
import { isBodiless, isRedirect, received } from './response.js';
import { eachChunk } from './streams.js';

const { DOMException, Headers, Uint8Array, URL } = globalThis;
const getter = (constructor, name) =>
  uncurry(getOwnPropertyDescriptor(constructor.prototype, name).get);
const eachHeader = uncurry(Headers.prototype.forEach);
const getHeader = uncurry(Headers.prototype.get);
const deleteHeader = uncurry(Headers.prototype.delete);
const hrefOf = getter(URL, 'href');
const originOf = getter(URL, 'origin');

const NO_BODY = { tag: 'none' };
const MAX_REDIRECTS = 20;

const failed = (reason) => new SafeTypeError(`fetch failed: ${reason}`);

async function fetch(input, init = undefined) {
  if (arguments.length === 0) throw new SafeTypeError('fetch: a URL or a Request is required');
  const { method, url, headers, signal, choices, content } = createRequestState(input, init);
  if (signal !== null && isAborted(signal)) throw aborted(signal);
  let body = null;
  let stream = null;
  if (content !== null) {
    const taken = await unlessAborted(bytesOrStream(content, 'fetch'), signal);
    if (taken instanceof Uint8Array) body = taken;
    else stream = taken;
  }
  const { redirect } = choices;
  return send({ method, url, headers, body, stream, signal, redirect, hops: 0 });
}

async function send(request) {
  const { method, url, headers, body, stream, signal, redirect, hops } = request;
  const message = { method, url, headers: [], body: NO_BODY, firstByteTimeout: undefined };
  if (stream !== null) message.body = { tag: 'pieces', val: undefined };
  else if (body !== null && body.length > 0) message.body = { tag: 'whole', val: body };
  let count = 0;
  if (headers !== null) {
    eachHeader(headers, (value, name) => {
      message.headers[count++] = [name, value];
    });
  }
  const id = start((number) => host.fetch(number, message), failed);
  let completed = completion(id);
  if (stream !== null) completed = firstOf(completed, upload(id, stream));
  const outcome = await unlessAborted(completed, signal, id);
  if (outcome.tag === 'failed') throw failed(outcome.val);
  const response = outcome.val;
  if (isRedirect(response.status) && redirect !== 'manual') {
    const location = getHeader(new Headers(response.headers), 'location');
    if (redirect === 'error') {
      abandon(id);
      throw failed(`the response is a redirect to ${location}`);
    }
    if (location !== null) {
      abandon(id);
      return send(redirected(request, response.status, location));
    }
  }
  const bodiless = isBodiless(response.status) || method === 'HEAD';
  if (bodiless) abandon(id);
  const content = bodiless ? null : contentOf(id, signal, response);
  return received({
    status: response.status,
    fields: response.headers,
    url,
    redirected: hops > 0,
    content,
  });
}

/**
 * Sends the chunks of a stream, each when the host has accepted the previous one. The
 * promise is settled only by an error of the stream.
 */
function upload(id, stream) {
  return new SafePromise((_, reject) => {
    whenSettled(
      eachChunk(stream, (chunk) => chunk.length === 0 || write(id, chunk, failed)),
      () => finish(id, failed),
      (error) => {
        abandon(id);
        reject(error);
      },
    );
  });
}

/** Returns a promise that settles like the first of two promises that settles. */
function firstOf(one, other) {
  return new SafePromise((resolve, reject) => {
    whenSettled(one, resolve, reject);
    whenSettled(other, resolve, reject);
  });
}

/** Returns the request for a redirect's target. The host checks it like any other. */
function redirected(request, status, location) {
  if (request.stream !== null && status !== 303) {
    throw failed('the response is a redirect, and a streamed body cannot be sent again');
  }
  if (request.hops === MAX_REDIRECTS) throw failed(`more than ${MAX_REDIRECTS} redirects`);
  let target;
  try {
    target = new URL(location, request.url);
  } catch {
    throw failed(`the response redirects to ${location}, which is not a URL`);
  }
  const headers = new Headers(request.headers ?? undefined);
  const next = { ...request, headers, url: hrefOf(target), hops: request.hops + 1 };
  const { method } = request;
  if (
    (status === 303 && method !== 'GET' && method !== 'HEAD') ||
    (status <= 302 && method === 'POST')
  ) {
    next.method = 'GET';
    next.body = null;
    next.stream = null;
    for (let i = 0; i < BODY_HEADERS.length; i++) deleteHeader(headers, BODY_HEADERS[i]);
  }
  if (originOf(target) !== originOf(new URL(request.url))) {
    for (let i = 0; i < CREDENTIALS.length; i++) deleteHeader(headers, CREDENTIALS[i]);
  }
  return next;
}
const BODY_HEADERS = [
  'content-encoding',
  'content-language',
  'content-location',
  'content-type',
  'content-length',
];
// Removed when a redirect leads to another origin.
const CREDENTIALS = ['authorization', 'cookie', 'proxy-authorization'];

function contentOf(id, signal, response) {
  const names = encodings(getHeader(new Headers(response.headers), 'content-encoding'));
  if (names.length > 0) return arriving(decoded(chunks(id, signal, response), names, failed));
  // A complete body can still be aborted by a signal, so it is streamed then.
  if (response.complete && signal === null) return arrived(new Uint8Array(response.body));
  return arriving(chunks(id, signal, response));
}

/**
 * Returns the source of the chunks of a response's body: the bytes that came with its
 * head, then further chunks on request.
 */
function chunks(id, signal, { body, complete }) {
  let first = body.length > 0 ? body : null;
  let ended = complete && first === null;
  return {
    async next() {
      if (ended) return null;
      if (signal !== null && isAborted(signal)) {
        abandon(id);
        throw aborted(signal);
      }
      if (first !== null) {
        // A copy in the script's realm: this one is of the bindings' realm.
        const chunk = new Uint8Array(first);
        first = null;
        ended = complete;
        return chunk;
      }
      sendCommand(() => host.read(id), failed);
      const outcome = await unlessAborted(completion(id), signal, id);
      if (outcome.tag === 'chunk') return new Uint8Array(outcome.val);
      ended = true;
      if (outcome.tag === 'end') return null;
      throw failed(outcome.val);
    },
    cancel() {
      ended = true;
      abandon(id);
    },
  };
}

/** Waits for a promise or for the signal, which also closes the connection. */
function unlessAborted(promise, signal, id = undefined) {
  if (signal === null) return promise;
  return new SafePromise((resolve, reject) => {
    const stop = () => {
      if (id !== undefined) abandon(id);
      reject(aborted(signal));
    };
    if (isAborted(signal)) return stop();
    listen(signal, 'abort', stop);
    pass(promise, resolve, reject, () => unlisten(signal, 'abort', stop));
  });
}

async function pass(promise, resolve, reject, done) {
  try {
    resolve(await promise);
  } catch (error) {
    reject(error);
  }
  done();
}

/** Returns the error of an aborted fetch, which is always named AbortError or TimeoutError. */
function aborted(signal) {
  const reason = reasonOf(signal);
  const name = reason?.name;
  if (name === 'AbortError' || name === 'TimeoutError') return reason;
  const error = new DOMException(textOf(reason), 'AbortError');
  define(error, 'cause', reason, false);
  return error;
}

function textOf(reason) {
  try {
    return reason === undefined ? 'the fetch was aborted' : SafeString(reason?.message ?? reason);
  } catch {
    return 'the fetch was aborted';
  }
}

export function installFetch(global) {
  define(global, 'fetch', fetch, true);
}
