// Bodies that a script passes to a `Request` or a `Response`, and bodies from the
// host. They are kept as bytes until a script accesses the stream. The states are:
//
//   bytes      complete bytes
//   source     chunks that arrive from the host: { next(), cancel() }
//   stream     a ReadableStream, which replaces the other two

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

const { ArrayBuffer, ReadableStream, Response, TextEncoder, Uint8Array, URLSearchParams } =
  globalThis;
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
  // True if the runner created the stream from the bytes or the source.
  ours = false;
}

/** Returns the content of a body argument and the content type that it implies, or null. */
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
    if (isDisturbed(body))
      throw new SafeTypeError('the body is a stream that is locked or was read already');
    content.stream = body;
  } else if (
    body.toString === toText ||
    body.toString === undefined ||
    objectTag(body) === '[object Array]'
  ) {
    content.bytes = encode(encoder, toJson(body));
    type = 'application/json';
  } else {
    content.bytes = encode(encoder, SafeString(body));
    type = 'text/plain;charset=UTF-8';
  }
  return { content, type };
}

/** Creates the content of a body that has been received completely. */
export function arrived(bytes) {
  const content = new Content();
  content.bytes = bytes;
  return content;
}

/** Creates the content of a body that is being received: `next` returns null at its end. */
export function arriving(source) {
  const content = new Content();
  content.source = source;
  return content;
}

/** Returns whether a stream is locked or was read: the engine rejects it then. */
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
  // For a stream that a script created, ask the engine.
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

/** Takes the complete content: a promise of a Uint8Array. */
export async function takeBytes(content, what) {
  if (content === null) return new Uint8Array(0);
  refuseUsed(content, what);
  content.used = true;
  if (content.stream !== null) return readAll(content.stream);
  if (content.bytes !== null) return content.bytes;
  const chunks = [];
  for (;;) {
    const chunk = await content.source.next();
    if (chunk === null) break;
    chunks[chunks.length] = chunk;
  }
  return chunks.length === 1 ? chunks[0] : concatenated(chunks);
}

/** Takes the content as bytes, or as a stream if it is one. */
export async function bytesOrStream(content, what) {
  refuseUsed(content, what);
  if (content.stream === null) return takeBytes(content, what);
  content.used = true;
  return content.stream;
}

/** Moves the content to a new object; the old one counts as used. */
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

/** Returns the content as a stream, always the same one. */
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

/** Returns a copy of the content. */
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
 * Adds the members of a body to a class. `contentOf` and `typeOf` take an object of
 * the class, and throw for any other value.
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
      if (type === null) throw new SafeTypeError(`${name}.formData: the content-type is missing`);
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
    defineProperty(prototype, member, {
      __proto__: null,
      get,
      set: undefined,
      enumerable: true,
      configurable: true,
    });
  }
}

/** Returns unshared bytes: a clone shares those of its original, a body those of its Blob. */
function ownCopy(content, bytes) {
  const isEntireBuffer = bytes.byteOffset === 0 && bytes.byteLength === bytes.buffer.byteLength;
  return isEntireBuffer && (content === null || content.bytes === null) ? bytes : fresh(bytes);
}

const fresh = (bytes) =>
  new Uint8Array(copyOf(bytes.buffer, bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
