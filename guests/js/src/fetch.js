// The engine's own `fetch`, which goes through the host; only plain objects
// as a body are added.

import {
  apply,
  define,
  getPrototypeOf,
  isArray,
  PlainObject,
  rejected,
  uncurry,
} from './intrinsics.js';
import { toJson } from './values.js';

const engineFetch = globalThis.fetch;
const SafeHeaders = globalThis.Headers;
const hasHeader = uncurry(Headers.prototype.has);
const setHeader = uncurry(Headers.prototype.set);

function fetch(input, init = undefined) {
  if (!isJsonBody(init?.body)) return apply(engineFetch, globalThis, init === undefined ? [input] : [input, init]);
  try {
    const headers = new SafeHeaders(init.headers ?? input.headers);
    if (!hasHeader(headers, 'content-type')) setHeader(headers, 'content-type', 'application/json');
    return apply(engineFetch, globalThis, [input, { ...init, headers, body: toJson(init.body) }]);
  } catch (error) {
    return rejected(error);
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
