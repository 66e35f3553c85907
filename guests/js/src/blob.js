// `Blob` and `File`, of the File API. The engine's own store their bytes outside of
// the memory that its garbage collector counts, never free those of a `File`, and
// return an empty slice if memory is exhausted. Here the bytes are a `Uint8Array` that
// no script can access, so that slices and copies can share it.

import { concatenated, utf8 } from './bytes.js';
import {
  getOwnPropertyDescriptor,
  isArray,
  iterator,
  SafeString,
  SafeTypeError,
  string,
  toStringTag,
  uncurry,
} from './intrinsics.js';
import { streamFrom } from './streams.js';
import { cloning } from './structured-clone.js';
import { dictionary, install, longLong, wellFormed } from './web-idl.js';

const { ArrayBuffer, DataView, Date, TextEncoder, Uint8Array } = globalThis;
const isView = ArrayBuffer.isView;
const getter = (prototype, name) => uncurry(getOwnPropertyDescriptor(prototype, name).get);
const TypedArray = Object.getPrototypeOf(Uint8Array);
const bufferSize = getter(ArrayBuffer.prototype, 'byteLength');
const gettersOf = (prototype) => ({
  buffer: getter(prototype, 'buffer'),
  byteOffset: getter(prototype, 'byteOffset'),
  byteLength: getter(prototype, 'byteLength'),
});
const typedArray = gettersOf(TypedArray.prototype);
const dataView = gettersOf(DataView.prototype);
const typedArrayTag = getter(TypedArray.prototype, toStringTag);
const encoder = new TextEncoder();
const encode = uncurry(TextEncoder.prototype.encode);
const copyOf = uncurry(Uint8Array.prototype.slice);
const part = uncurry(Uint8Array.prototype.subarray);
const clock = Date.now;

/** The size of a chunk of a stream, in bytes. */
const CHUNK_BYTES = 1 << 16;

/** A constructor argument of bytes that no script can access, which are not copied. */
class Owned {
  constructor(bytes) {
    this.bytes = bytes;
  }
}

let bytesOf;
let typeOf;
let nameOf;
let timeOf;

export class Blob {
  #bytes;
  #type;

  static {
    bytesOf = (value) =>
      typeof value === 'object' && value !== null && #bytes in value ? value.#bytes : undefined;
    typeOf = (blob) => blob.#type;
  }

  constructor(blobParts = undefined, options = undefined) {
    const given = dictionary(options, 'Blob');
    if (blobParts instanceof Owned) {
      this.#bytes = blobParts.bytes;
    } else {
      const endings = given.endings === undefined ? 'transparent' : SafeString(given.endings);
      if (endings !== 'transparent' && endings !== 'native') {
        throw new SafeTypeError(`Blob: endings is ${endings}: use "transparent" or "native"`);
      }
      this.#bytes = joined(blobParts, endings === 'native');
    }
    this.#type = given.type === undefined ? '' : mediaType(given.type);
    cloning.needed = true;
  }

  get size() {
    return this.#bytes.length;
  }

  get type() {
    return this.#type;
  }

  slice(start = undefined, end = undefined, contentType = undefined) {
    const size = this.#bytes.length;
    const from = start === undefined ? 0 : position(start, size);
    const to = end === undefined ? size : position(end, size);
    const type = contentType === undefined ? '' : SafeString(contentType);
    return new Blob(new Owned(part(this.#bytes, from, to < from ? from : to)), {
      __proto__: null,
      type,
    });
  }

  async text() {
    return utf8(this.#bytes);
  }

  async bytes() {
    return copyOf(this.#bytes);
  }

  async arrayBuffer() {
    return copyOf(this.#bytes).buffer;
  }

  stream() {
    const bytes = this.#bytes;
    let at = 0;
    return streamFrom({
      async next() {
        if (at >= bytes.length) return null;
        const chunk = copyOf(bytes, at, at + CHUNK_BYTES);
        at += chunk.length;
        return chunk;
      },
      cancel() {},
    });
  }
}

export class File extends Blob {
  #name;
  #lastModified;

  static {
    nameOf = (value) =>
      typeof value === 'object' && value !== null && #name in value ? value.#name : undefined;
    timeOf = (file) => file.#lastModified;
  }

  constructor(fileBits, fileName, options = undefined) {
    if (arguments.length < 2) throw new SafeTypeError('File: the parts and a name are required');
    if (fileBits === undefined)
      throw new SafeTypeError('File: the parts must be an iterable, not undefined');
    super(fileBits, options);
    this.#name = wellFormed(SafeString(fileName));
    const { lastModified } = dictionary(options, 'File');
    this.#lastModified = lastModified === undefined ? clock() : longLong(lastModified);
  }

  get name() {
    return this.#name;
  }

  get lastModified() {
    return this.#lastModified;
  }
}

/** Returns the bytes of a Blob, which must not be changed, or undefined for another value. */
export const blobBytes = (value) => bytesOf(value);
/** Returns the type of a Blob. */
export const blobType = (blob) => typeOf(blob);
/** Returns the name of a File, or undefined for another value. */
export const fileName = (value) => nameOf(value);
/** Returns the modification time of a File. */
export const fileTime = (file) => timeOf(file);
/** Creates a Blob of bytes that no other object refers to. */
export const blobOf = (bytes, type) => new Blob(new Owned(bytes), { __proto__: null, type });
/** Creates a File from a Blob's bytes. */
export const fileOf = (blob, name, lastModified = undefined) =>
  new File(new Owned(bytesOf(blob)), name, { __proto__: null, type: typeOf(blob), lastModified });

function joined(parts, nativeEndings) {
  if (parts === undefined) return new Uint8Array(0);
  const listed = (typeof parts === 'object' && parts !== null) || typeof parts === 'function';
  if (!listed || typeof parts[iterator] !== 'function') {
    throw new SafeTypeError('Blob: the parts must be an iterable of strings, buffers and Blobs');
  }
  const chunks = [];
  let borrowed = false;
  const add = (value) => {
    let chunk = bytesOf(value) ?? viewOf(value);
    borrowed ||= chunk !== undefined && bytesOf(value) === undefined;
    chunk ??= encoded(value, nativeEndings);
    chunks[chunks.length] = chunk;
  };
  if (isArray(parts)) for (let i = 0; i < parts.length; i++) add(parts[i]);
  else for (const value of parts) add(value);
  // No script can access the bytes of a text or of a Blob.
  return chunks.length === 1 && !borrowed ? chunks[0] : concatenated(chunks);
}

/** Returns the mutable bytes of a buffer or of a view of one, or undefined. */
function viewOf(value) {
  if (typeof value !== 'object' || value === null) return undefined;
  if (isView(value)) {
    const { buffer, byteOffset, byteLength } =
      typedArrayTag(value) === undefined ? dataView : typedArray;
    return new Uint8Array(buffer(value), byteOffset(value), byteLength(value));
  }
  return isBuffer(value) ? new Uint8Array(value) : undefined;
}

function encoded(value, nativeEndings) {
  let text = SafeString(value);
  if (nativeEndings) text = string.replaceAll(string.replaceAll(text, '\r\n', '\n'), '\r', '\n');
  return encode(encoder, text);
}

function isBuffer(value) {
  try {
    bufferSize(value);
    return true;
  } catch {
    return false;
  }
}

/** Returns a position from the start; a negative one counts from the end. */
function position(value, size) {
  const at = longLong(value);
  if (at < 0) return size + at < 0 ? 0 : size + at;
  return at > size ? size : at;
}

/** Returns the type in lower case, or '' if it has anything but printable ASCII. */
function mediaType(value) {
  const type = SafeString(value);
  for (let i = 0; i < type.length; i++) {
    const code = string.charCodeAt(type, i);
    if (code < 0x20 || code > 0x7e) return '';
  }
  return string.toLowerCase(type);
}

export function installBlob(global) {
  cloning.blob = (value) => {
    if (bytesOf(value) === undefined) return undefined;
    const name = nameOf(value);
    return name === undefined
      ? blobOf(bytesOf(value), typeOf(value))
      : fileOf(value, name, timeOf(value));
  };
  install(global, Blob, ['size', 'type', 'slice', 'text', 'bytes', 'arrayBuffer', 'stream']);
  install(global, File, ['name', 'lastModified']);
  // They accept only the engine's own Blobs, and nothing could read their URLs.
  delete global.URL.createObjectURL;
  delete global.URL.revokeObjectURL;
}
