// Represents values as MIME bundles: base64 for binary types, JSON values for JSON types,
// and text for all others.
//
// An object can tell its representations: by a method with the key
// `Symbol.for('Jupyter.display')`, which returns an object of MIME types, and by the
// methods `toHTML`, `toSVG` and `toMarkdown`, which return text.

import {
  apply,
  getOwnPropertyDescriptor,
  keys,
  parse,
  regExpExec,
  SafeString,
  SafeTypeError,
  string,
  stringify,
  uncurry,
} from './intrinsics.js';
import { errorText, failure } from './failures.js';
import { inspect } from './inspect.js';

const TEXT = 'text/plain';
const DISPLAY = Symbol.for('Jupyter.display');
const METHODS = [
  ['text/html', 'toHTML'],
  ['image/svg+xml', 'toSVG'],
  ['text/markdown', 'toMarkdown'],
];
const MIME_TYPE = /^[A-Za-z0-9!#$&^_.+-]{1,100}\/[A-Za-z0-9!#$&^_.+-]{1,100}$/;
const BINARY = /^(?:image\/(?!svg\+xml)|audio\/|video\/|application\/(?:pdf|octet-stream)$)/;
const JSON_TYPE = /^application\/(?:.*\+)?json$/;

/** The number of entries of a bundle that a value makes itself. */
const MAX_ENTRIES = 64;

/** The number of bytes that are encoded as base64 at once: a multiple of 3. */
const BASE64_CHUNK_BYTES = 3 * 8192;

const { Uint8Array, ArrayBuffer } = globalThis;
const toBase64 = globalThis.btoa;
const characters = String.fromCharCode;
const part = uncurry(Uint8Array.prototype.subarray);
const isView = ArrayBuffer.isView;
const bufferLength = uncurry(getOwnPropertyDescriptor(ArrayBuffer.prototype, 'byteLength').get);

/** Returns the data and the metadata of a value, with entries of at most `limit` bytes. */
export function bundle(value, limit) {
  const made = { data: {}, metadata: {}, errors: {}, omitted: {}, limit };
  const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function';
  if (isObject && isBundle(value)) putAll(made, value);
  else {
    call(made, TEXT, () => inspect(value, { errorText }));
    if (isObject) ask(made, value);
  }
  return finish(made);
}

/** Returns whether all keys of a plain object are MIME types. */
function isBundle(value) {
  try {
    const names = keys(value);
    for (let i = 0; i < names.length; i++) {
      if (regExpExec(MIME_TYPE, names[i]) === null) return false;
    }
    return names.length > 0;
  } catch {
    return false;
  }
}

function ask(made, value) {
  try {
    const method = value[DISPLAY];
    if (typeof method === 'function') putAll(made, apply(method, value, []));
  } catch (error) {
    fail(made, 'Jupyter.display', error);
  }
  for (let i = 0; i < METHODS.length; i++) {
    const [mime, name] = METHODS[i];
    if (made.data[mime] === undefined)
      call(made, mime, () => {
        const method = value[name];
        return typeof method === 'function' ? apply(method, value, []) : undefined;
      });
  }
}

function call(made, mime, make) {
  try {
    const entry = make();
    if (entry !== undefined && entry !== null) put(made, mime, entry);
  } catch (error) {
    fail(made, mime, error);
  }
}

function putAll(made, entries) {
  const names = keys(entries);
  for (let i = 0; i < names.length && i < MAX_ENTRIES; i++) {
    call(made, names[i], () => entries[names[i]]);
  }
}

function put(made, mime, entry) {
  if (regExpExec(MIME_TYPE, mime) === null)
    throw new SafeTypeError(`not a valid MIME type: ${string.slice(mime, 0, 200)}`);
  let size;
  if (regExpExec(JSON_TYPE, mime) !== null) {
    const text = stringify(entry);
    if (text === undefined) throw new SafeTypeError(`${mime} is a JSON value`);
    size = text.length;
    if (size <= made.limit) entry = parse(text);
  } else if (regExpExec(BINARY, mime) !== null && typeof entry !== 'string') {
    const bytes = bytesOf(entry);
    size = floorDivide(bytes.length + 2, 3) * 4;
    if (size <= made.limit) entry = base64(bytes);
  } else {
    if (typeof entry !== 'string') throw new SafeTypeError(`${mime} is text, not ${typeof entry}`);
    size = entry.length;
    if (size > made.limit && mime === TEXT) {
      entry = `${string.slice(entry, 0, made.limit)}\n[... ${size} characters, cut]`;
      size = made.limit;
    }
  }
  if (size <= made.limit) made.data[mime] = entry;
  else made.omitted[mime] = `${size} bytes, over the limit of ${made.limit}`;
}

const floorDivide = (a, b) => (a - (a % b)) / b;

function bytesOf(entry) {
  if (isView(entry)) return new Uint8Array(entry.buffer, entry.byteOffset, entry.byteLength);
  try {
    bufferLength(entry);
  } catch {
    throw new SafeTypeError('bytes are a Uint8Array, an ArrayBuffer or base64');
  }
  return new Uint8Array(entry);
}

function base64(bytes) {
  let text = '';
  for (let at = 0; at < bytes.length; at += BASE64_CHUNK_BYTES) {
    text += toBase64(apply(characters, undefined, part(bytes, at, at + BASE64_CHUNK_BYTES)));
  }
  return text;
}

function fail(made, mime, error) {
  const { name, message } = failure(error);
  made.errors[SafeString(mime)] = string.slice(`${name}: ${message}`, 0, 1000);
}

function finish({ data, metadata, errors, omitted }) {
  if (keys(errors).length > 0) metadata.errors = errors;
  if (keys(omitted).length > 0) metadata.omitted = omitted;
  return { data, metadata };
}
