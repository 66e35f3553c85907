// `fetch`, over the contract's plain calls. (The engine's own never lets go of
// the handles that it opens.)

import * as host from 'isola:sandbox/host@0.1.0';
import { define, getOwnPropertyDescriptor, SafePromise, SafeString, SafeTypeError, uncurry, whenSettled } from './intrinsics.js';
import { isAborted, reasonOf } from './abort.js';
import { arrived, arriving, bytesOrStream } from './body.js';
import { decoded, encodings } from './encodings.js';
import { listen, unlisten } from './events.js';
import { abandon, finish, news, start, tell, write } from './pending.js';
import { createRequestState } from './request.js';
import { isBodiless, isRedirect, received } from './response.js';
import { eachPiece } from './streams.js';

const { DOMException, Headers, Uint8Array, URL } = globalThis;
const getter = (constructor, name) => uncurry(getOwnPropertyDescriptor(constructor.prototype, name).get);
const eachHeader = uncurry(Headers.prototype.forEach);
const getHeader = uncurry(Headers.prototype.get);
const deleteHeader = uncurry(Headers.prototype.delete);
const hrefOf = getter(URL, 'href');
const originOf = getter(URL, 'origin');

const NO_BODY = { tag: 'none' };
const MOST_REDIRECTS = 20;

const failed = (reason) => new SafeTypeError(`fetch failed: ${reason}`);

async function fetch(input, init = undefined) {
  if (arguments.length === 0) throw new SafeTypeError('fetch: a URL or a Request is needed');
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
  let answered = news(id);
  if (stream !== null) answered = firstOf(answered, upload(id, stream));
  const outcome = await unlessAborted(answered, signal, id);
  if (outcome.tag === 'failed') throw failed(outcome.val);
  const answer = outcome.val;
  if (isRedirect(answer.status) && redirect !== 'manual') {
    const location = getHeader(new Headers(answer.headers), 'location');
    if (redirect === 'error') {
      abandon(id);
      throw failed(`the answer is a redirect, to ${location}`);
    }
    if (location !== null) {
      abandon(id);
      return send(redirected(request, answer.status, location));
    }
  }
  const bodiless = isBodiless(answer.status) || method === 'HEAD';
  if (bodiless) abandon(id);
  const content = bodiless ? null : contentOf(id, signal, answer);
  return received({ status: answer.status, fields: answer.headers, url, redirected: hops > 0, content });
}

/**
 * Sends the pieces of a stream, each when the host took the one before it. The
 * promise is settled only by an error of the stream.
 */
function upload(id, stream) {
  return new SafePromise((_, reject) => {
    whenSettled(
      eachPiece(stream, (piece) => piece.length === 0 || write(id, piece, failed)),
      () => finish(id, failed),
      (error) => {
        abandon(id);
        reject(error);
      },
    );
  });
}

/** The one of two promises that is settled first. */
function firstOf(one, other) {
  return new SafePromise((resolve, reject) => {
    whenSettled(one, resolve, reject);
    whenSettled(other, resolve, reject);
  });
}

/** The request that a redirect asks for. The host decides on it as on any other. */
function redirected(request, status, location) {
  if (request.stream !== null && status !== 303) {
    throw failed('the answer is a redirect, and a body that is a stream cannot be sent again');
  }
  if (request.hops === MOST_REDIRECTS) throw failed(`more than ${MOST_REDIRECTS} redirects`);
  let target;
  try {
    target = new URL(location, request.url);
  } catch {
    throw failed(`the answer redirects to ${location}, which is not a URL`);
  }
  const headers = new Headers(request.headers ?? undefined);
  const next = { ...request, headers, url: hrefOf(target), hops: request.hops + 1 };
  const { method } = request;
  if ((status === 303 && method !== 'GET' && method !== 'HEAD') || (status <= 302 && method === 'POST')) {
    next.method = 'GET';
    next.body = null;
    next.stream = null;
    for (let i = 0; i < ABOUT_BODY.length; i++) deleteHeader(headers, ABOUT_BODY[i]);
  }
  if (originOf(target) !== originOf(new URL(request.url))) {
    for (let i = 0; i < CREDENTIALS.length; i++) deleteHeader(headers, CREDENTIALS[i]);
  }
  return next;
}
const ABOUT_BODY = ['content-encoding', 'content-language', 'content-location', 'content-type', 'content-length'];
// Secrets for one server are not for another.
const CREDENTIALS = ['authorization', 'cookie', 'proxy-authorization'];

function contentOf(id, signal, answer) {
  const names = encodings(getHeader(new Headers(answer.headers), 'content-encoding'));
  if (names.length > 0) return arriving(decoded(pieces(id, signal, answer), names, failed));
  // Of a body that a signal may still abort, nothing is taken for granted.
  if (answer.complete && signal === null) return arrived(new Uint8Array(answer.body));
  return arriving(pieces(id, signal, answer));
}

/**
 * The pieces of a response's body: what came with its head, and then each when
 * it is asked for.
 */
function pieces(id, signal, { body, complete }) {
  let first = body.length > 0 ? body : null;
  let over = complete && first === null;
  return {
    async next() {
      if (over) return null;
      if (signal !== null && isAborted(signal)) {
        abandon(id);
        throw aborted(signal);
      }
      if (first !== null) {
        // A copy of the script's own kind: this one is of the bindings' realm.
        const piece = new Uint8Array(first);
        first = null;
        over = complete;
        return piece;
      }
      tell(() => host.read(id), failed);
      const outcome = await unlessAborted(news(id), signal, id);
      if (outcome.tag === 'chunk') return new Uint8Array(outcome.val);
      over = true;
      if (outcome.tag === 'end') return null;
      throw failed(outcome.val);
    },
    cancel() {
      over = true;
      abandon(id);
    },
  };
}

/** Waits for a promise, or for the signal, which also closes the connection. */
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

/** What an aborted fetch rejects with: always an error by that name. */
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

