// Bodies: what a script gives to a `Request` or a `Response`, and what arrives
// from the host, kept as bytes as long as nobody asks for a stream.
//
//   bytes      they are here
//   source     pieces that arrive from the host: { next(), cancel() }
//   stream     a ReadableStream; from here on nothing else is there

import {
  define,
  defineProperty,
  getOwnPropertyDescriptor,
  objectTag,
  PlainObject,
  parse,
  SafeString,
  SafeTypeError,
  uncurry,
} from './intrinsics.js';
import { blobBytes, blobOf, blobType } from './blob.js';
import { concatenated, utf8 } from './bytes.js';
import { isForm, writeForm } from './form-data.js';
import { readForm } from './forms.js';
import { readAll, streamFrom } from './streams.js';
import { toJson } from './values.js';

const { ArrayBuffer, ReadableStream, Response, TextEncoder, Uint8Array, URLSearchParams } = globalThis;
const isView = ArrayBuffer.isView;
const encoder = new TextEncoder();
const encode = uncurry(TextEncoder.prototype.encode);
const isLocked = uncurry(getOwnPropertyDescriptor(ReadableStream.prototype, 'locked').get);
const tee = uncurry(ReadableStream.prototype.tee);
const copyOf = uncurry(ArrayBuffer.prototype.slice);
const paramsText = uncurry(URLSearchParams.prototype.toString);
const toText = PlainObject.toString;

class Content {
  bytes = null;
  source = null;
  stream = null;
  used = false;
  // Whether the stream is one that the runner made of the rest.
  ours = false;
}

/** The content of a body argument and the type that it suggests, or null. */
export function extract(body) {
  if (body === undefined || body === null) return { content: null, type: null };
  const content = new Content();
  let type = null;
  if (typeof body !== 'object') {
    content.bytes = encode(encoder, SafeString(body));
    type = 'text/plain;charset=UTF-8';
  } else if (isView(body)) {
    const { buffer, byteOffset, byteLength } = body;
    content.bytes = new Uint8Array(copyOf(buffer, byteOffset, byteOffset + byteLength));
  } else if (body instanceof ArrayBuffer) {
    content.bytes = new Uint8Array(copyOf(body));
  } else if (body instanceof URLSearchParams) {
    content.bytes = encode(encoder, paramsText(body));
    type = 'application/x-www-form-urlencoded;charset=UTF-8';
  } else if (blobBytes(body) !== undefined) {
    content.bytes = blobBytes(body);
    type = blobType(body) || null;
  } else if (isForm(body)) {
    const form = writeForm(body);
    content.bytes = form.bytes;
    type = form.type;
  } else if (body instanceof ReadableStream) {
    if (isDisturbed(body)) throw new SafeTypeError('the body is a stream that is locked or was read before');
    content.stream = body;
  } else if (body.toString === toText || body.toString === undefined || objectTag(body) === '[object Array]') {
    content.bytes = encode(encoder, toJson(body));
    type = 'application/json';
  } else {
    content.bytes = encode(encoder, SafeString(body));
    type = 'text/plain;charset=UTF-8';
  }
  return { content, type };
}

/** The content that has arrived. */
export function arrived(bytes) {
  const content = new Content();
  content.bytes = bytes;
  return content;
}

/** The content that arrives from the host: `next` gives null at its end. */
export function arriving(source) {
  const content = new Content();
  content.source = source;
  return content;
}

/** Locked, or read from: the engine tells by refusing it. */
function isDisturbed(stream) {
  if (isLocked(stream)) return true;
  try {
    new Response(stream);
    return false;
  } catch {
    return true;
  }
}

export function isUsed(content) {
  if (content === null) return false;
  if (content.used) return true;
  // Of a stream that a script made, the engine knows.
  return content.stream !== null && !content.ours && isDisturbed(content.stream);
}

function isUnusable(content) {
  return isUsed(content) || (content.stream !== null && isLocked(content.stream));
}

export function refuseUsed(content, what) {
  if (content !== null && isUnusable(content)) {
    throw new SafeTypeError(`${what}: the body was read already, or is being read`);
  }
}

/** Takes the whole content: a promise of a Uint8Array. */
export async function takeBytes(content, what) {
  if (content === null) return new Uint8Array(0);
  refuseUsed(content, what);
  content.used = true;
  if (content.stream !== null) return readAll(content.stream);
  if (content.bytes !== null) return content.bytes;
  const pieces = [];
  for (;;) {
    const piece = await content.source.next();
    if (piece === null) break;
    pieces[pieces.length] = piece;
  }
  return pieces.length === 1 ? pieces[0] : concatenated(pieces);
}

/** Takes the content: bytes, or what a script made a stream of, as a stream. */
export async function bytesOrStream(content, what) {
  refuseUsed(content, what);
  if (content.stream === null) return takeBytes(content, what);
  content.used = true;
  return content.stream;
}

/** Moves the content into an object of its own; what is left counts as used. */
export function moved(content, what) {
  if (content === null) return null;
  refuseUsed(content, what);
  const { bytes, source, stream, ours } = content;
  const target = new Content();
  target.bytes = bytes;
  target.source = source;
  target.stream = stream;
  target.ours = ours;
  content.used = true;
  return target;
}

/** The content as a stream, always the same one. */
function streamOf(content) {
  if (content.stream !== null) return content.stream;
  const { bytes, source, used } = content;
  let done = used;
  const next = async () => {
    content.used = true;
    if (source !== null) return source.next();
    if (done) return null;
    done = true;
    return bytes.length > 0 ? fresh(bytes) : null;
  };
  const cancel = (reason) => {
    content.used = true;
    if (source !== null) source.cancel(reason);
  };
  content.stream = streamFrom({ next, cancel });
  content.ours = true;
  content.bytes = null;
  return content.stream;
}

/** A second content that gives the same. */
export function cloned(content, what) {
  if (content === null) return null;
  refuseUsed(content, what);
  const copy = new Content();
  if (content.stream === null && content.source === null) {
    copy.bytes = content.bytes;
    return copy;
  }
  const branches = tee(streamOf(content));
  content.stream = branches[0];
  content.ours = false;
  content.source = null;
  copy.stream = branches[1];
  return copy;
}

/**
 * Gives a class the members of a body. `contentOf` and `typeOf` know an object
 * of the class, and throw for any other.
 */
export function installBody(Class, contentOf, typeOf) {
  const { prototype, name } = Class;
  const methods = {
    async text() {
      return utf8(await takeBytes(contentOf(this), `${name}.text`));
    },
    async json() {
      return parse(utf8(await takeBytes(contentOf(this), `${name}.json`)));
    },
    async bytes() {
      const content = contentOf(this);
      return ownCopy(content, await takeBytes(content, `${name}.bytes`));
    },
    async arrayBuffer() {
      const content = contentOf(this);
      return ownCopy(content, await takeBytes(content, `${name}.arrayBuffer`)).buffer;
    },
    async blob() {
      const type = typeOf(this) ?? '';
      const content = contentOf(this);
      return blobOf(ownCopy(content, await takeBytes(content, `${name}.blob`)), type);
    },
    async formData() {
      const type = typeOf(this);
      const bytes = await takeBytes(contentOf(this), `${name}.formData`);
      if (type === null) throw new SafeTypeError(`${name}.formData: there is no content-type`);
      return readForm(bytes, type);
    },
  };
  for (const method in methods) define(prototype, method, methods[method], true);
  const accessors = {
    body() {
      const content = contentOf(this);
      return content === null ? null : streamOf(content);
    },
    bodyUsed() {
      return isUsed(contentOf(this));
    },
  };
  for (const member in accessors) {
    const get = accessors[member];
    defineProperty(prototype, member, { __proto__: null, get, set: undefined, enumerable: true, configurable: true });
  }
}

/** Bytes that nobody else holds: a clone shares the ones of its original, a body those of its Blob. */
function ownCopy(content, bytes) {
  const whole = bytes.byteOffset === 0 && bytes.byteLength === bytes.buffer.byteLength;
  return whole && (content === null || content.bytes === null) ? bytes : fresh(bytes);
}

const fresh = (bytes) => new Uint8Array(copyOf(bytes.buffer, bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
