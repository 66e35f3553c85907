// The engine's own `fetch`, which goes through the host. Added are plain objects
// as a body, and the host's reason when a request fails: the engine has none.

import * as host from 'isola:sandbox/host@0.1.0';
import {
  apply,
  define,
  getPrototypeOf,
  isArray,
  PlainObject,
  rejected,
  SafeTypeError,
  uncurry,
} from './intrinsics.js';
import { toJson } from './values.js';

const engineFetch = globalThis.fetch;
const SafeHeaders = globalThis.Headers;
const hasHeader = uncurry(Headers.prototype.has);
const setHeader = uncurry(Headers.prototype.set);

function fetch(input, init = undefined) {
  if (!isJsonBody(init?.body)) return send(init === undefined ? [input] : [input, init]);
  try {
    const headers = new SafeHeaders(init.headers ?? input.headers);
    if (!hasHeader(headers, 'content-type')) setHeader(headers, 'content-type', 'application/json');
    return send([input, { ...init, headers, body: toJson(init.body) }]);
  } catch (error) {
    return rejected(error);
  }
}

async function send(args) {
  try {
    return await apply(engineFetch, globalThis, args);
  } catch (error) {
    // An abort is the script's own doing, and says so itself.
    const reason = error instanceof SafeTypeError ? host.takeHttpError() : undefined;
    if (reason === undefined) throw error;
    throw new SafeTypeError(`fetch failed: ${reason}`, { cause: error });
  }
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
