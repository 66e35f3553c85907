// `Blob` and `File`, of the File API. The engine's own keep their bytes where its
// garbage collector does not count them, never free those of a `File`, and a slice
// for which there is no memory is empty. Here the bytes are a `Uint8Array` that no
// script can reach, so that slices and copies can share it.

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
import { dictionary, install, wellFormed, whole } from './web-idl.js';

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

/** Bytes of one piece of a stream. */
const PIECE = 1 << 16;

/** An argument of the constructor: bytes that no script can reach, which need no copy. */
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
    bytesOf = (value) => (typeof value === 'object' && value !== null && #bytes in value ? value.#bytes : undefined);
    typeOf = (blob) => blob.#type;
  }

  constructor(blobParts = undefined, options = undefined) {
    const given = dictionary(options, 'Blob');
    if (blobParts instanceof Owned) {
      this.#bytes = blobParts.bytes;
    } else {
      const endings = given.endings === undefined ? 'transparent' : SafeString(given.endings);
      if (endings !== 'transparent' && endings !== 'native') {
        throw new SafeTypeError(`Blob: endings is ${endings}: it is "transparent" or "native"`);
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
    return new Blob(new Owned(part(this.#bytes, from, to < from ? from : to)), { __proto__: null, type });
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
        const piece = copyOf(bytes, at, at + PIECE);
        at += piece.length;
        return piece;
      },
      cancel() {},
    });
  }
}

export class File extends Blob {
  #name;
  #lastModified;

  static {
    nameOf = (value) => (typeof value === 'object' && value !== null && #name in value ? value.#name : undefined);
    timeOf = (file) => file.#lastModified;
  }

  constructor(fileBits, fileName, options = undefined) {
    if (arguments.length < 2) throw new SafeTypeError('File: give the parts and a name');
    if (fileBits === undefined) throw new SafeTypeError('File: the parts are undefined: give a list');
    super(fileBits, options);
    this.#name = wellFormed(SafeString(fileName));
    const { lastModified } = dictionary(options, 'File');
    this.#lastModified = lastModified === undefined ? clock() : whole(lastModified);
  }

  get name() {
    return this.#name;
  }

  get lastModified() {
    return this.#lastModified;
  }
}

/** The bytes of a Blob, not to be changed, or undefined if the value is no Blob. */
export const blobBytes = (value) => bytesOf(value);
/** The type of a Blob. */
export const blobType = (blob) => typeOf(blob);
/** The name of a File, or undefined if the value is no File. */
export const fileName = (value) => nameOf(value);
/** When a File was changed. */
export const fileTime = (file) => timeOf(file);
/** A Blob of bytes that nobody else has. */
export const blobOf = (bytes, type) => new Blob(new Owned(bytes), { __proto__: null, type });
/** A File of a Blob's bytes. */
export const fileOf = (blob, name, lastModified = undefined) =>
  new File(new Owned(bytesOf(blob)), name, { __proto__: null, type: typeOf(blob), lastModified });

function joined(parts, nativeEndings) {
  if (parts === undefined) return new Uint8Array(0);
  const listed = (typeof parts === 'object' && parts !== null) || typeof parts === 'function';
  if (!listed || typeof parts[iterator] !== 'function') {
    throw new SafeTypeError('Blob: the parts are no list: give an array of texts, bytes and Blobs');
  }
  const pieces = [];
  let borrowed = false;
  const add = (value) => {
    let piece = bytesOf(value) ?? viewOf(value);
    borrowed ||= piece !== undefined && bytesOf(value) === undefined;
    piece ??= encoded(value, nativeEndings);
    pieces[pieces.length] = piece;
  };
  if (isArray(parts)) for (let i = 0; i < parts.length; i++) add(parts[i]);
  else for (const value of parts) add(value);
  // No script can reach the bytes of a text or of a Blob.
  return pieces.length === 1 && !borrowed ? pieces[0] : concatenated(pieces);
}

/** The bytes of a buffer or of a view of one, which its owner can change, or undefined. */
function viewOf(value) {
  if (typeof value !== 'object' || value === null) return undefined;
  if (isView(value)) {
    const { buffer, byteOffset, byteLength } = typedArrayTag(value) === undefined ? dataView : typedArray;
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

/** A position from the start, or from the end if it is negative. */
function position(value, size) {
  const at = whole(value);
  if (at < 0) return size + at < 0 ? 0 : size + at;
  return at > size ? size : at;
}

/** In lower case, or empty if it has anything but printable ASCII. */
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
    return name === undefined ? blobOf(bytesOf(value), typeOf(value)) : fileOf(value, name, timeOf(value));
  };
  install(global, Blob, ['size', 'type', 'slice', 'text', 'bytes', 'arrayBuffer', 'stream']);
  install(global, File, ['name', 'lastModified']);
  // They name what only the engine's own Blobs are, and nothing could read them.
  delete global.URL.createObjectURL;
  delete global.URL.revokeObjectURL;
}
