// `FormData` (XMLHttpRequest standard), whose files are the runner's own Blobs, and
// its encoding as `multipart/form-data` (HTML standard; RFC 7578).

import { blobBytes, blobType, fileName, fileOf, fileTime } from './blob.js';
import { concatenated } from './bytes.js';
import {
  apply,
  define,
  iterator,
  SafeString,
  SafeTypeError,
  string,
  uncurry,
} from './intrinsics.js';
import { cloning } from './structured-clone.js';
import { install, wellFormed } from './web-idl.js';

const { TextEncoder, Uint8Array, crypto } = globalThis;
const encoder = new TextEncoder();
const encode = uncurry(TextEncoder.prototype.encode);
const randomBytes = crypto.getRandomValues.bind(crypto);
const digits = uncurry(Number.prototype.toString);

let entriesOf;

export class FormData {
  // Lists of a name and a value.
  #entries = [];

  static {
    entriesOf = (value) =>
      typeof value === 'object' && value !== null && #entries in value ? value.#entries : undefined;
  }

  constructor(form = undefined) {
    if (form !== undefined)
      throw new SafeTypeError('FormData: form elements are not supported: pass no argument');
    cloning.needed = true;
  }

  append(name, value, filename = undefined) {
    const entry = entryOf('append', arguments.length, name, value, filename);
    this.#entries[this.#entries.length] = entry;
  }

  set(name, value, filename = undefined) {
    const entry = entryOf('set', arguments.length, name, value, filename);
    const kept = [];
    let replaced = false;
    for (let i = 0; i < this.#entries.length; i++) {
      const other = this.#entries[i];
      if (other[0] === entry[0] && replaced) continue;
      replaced ||= other[0] === entry[0];
      kept[kept.length] = other[0] === entry[0] ? entry : other;
    }
    if (!replaced) kept[kept.length] = entry;
    this.#entries = kept;
  }

  delete(name) {
    const wanted = wellFormed(SafeString(name));
    const kept = [];
    for (let i = 0; i < this.#entries.length; i++) {
      if (this.#entries[i][0] !== wanted) kept[kept.length] = this.#entries[i];
    }
    this.#entries = kept;
  }

  get(name) {
    return valuesOf(this.#entries, name)[0] ?? null;
  }

  getAll(name) {
    return valuesOf(this.#entries, name);
  }

  has(name) {
    return valuesOf(this.#entries, name).length > 0;
  }

  forEach(callback, thisArg = undefined) {
    if (typeof callback !== 'function')
      throw new SafeTypeError('FormData.forEach: the callback must be a function');
    // Entries that are added during the iteration are visited, too.
    for (let i = 0; i < this.#entries.length; i++) {
      const entry = this.#entries[i];
      apply(callback, thisArg, [entry[1], entry[0], this]);
    }
  }

  *entries() {
    for (let i = 0; i < this.#entries.length; i++) yield [this.#entries[i][0], this.#entries[i][1]];
  }

  *keys() {
    for (let i = 0; i < this.#entries.length; i++) yield this.#entries[i][0];
  }

  *values() {
    for (let i = 0; i < this.#entries.length; i++) yield this.#entries[i][1];
  }
}

function valuesOf(entries, name) {
  const wanted = wellFormed(SafeString(name));
  const values = [];
  for (let i = 0; i < entries.length; i++)
    if (entries[i][0] === wanted) values[values.length] = entries[i][1];
  return values;
}

/** Returns the entry of a form for the arguments of a method. */
function entryOf(method, given, name, value, filename) {
  if (given < 2) throw new SafeTypeError(`FormData.${method}: a name and a value are required`);
  const key = wellFormed(SafeString(name));
  if (blobBytes(value) === undefined) {
    if (given > 2)
      throw new SafeTypeError(`FormData.${method}: a file name is only allowed for a Blob`);
    return [key, wellFormed(SafeString(value))];
  }
  if (filename !== undefined) {
    const time = fileName(value) === undefined ? undefined : fileTime(value);
    return [key, fileOf(value, SafeString(filename), time)];
  }
  return [key, fileName(value) === undefined ? fileOf(value, 'blob') : value];
}

/** Returns whether a value is a form. */
export const isForm = (value) => entriesOf(value) !== undefined;

/** Returns a form's bytes, and its content type with the boundary. */
export function writeForm(form) {
  const entries = entriesOf(form);
  const boundary = `----isola${hex(randomBytes(new Uint8Array(16)))}`;
  const chunks = [];
  const add = (chunk) => {
    chunks[chunks.length] = chunk;
  };
  for (let i = 0; i < entries.length; i++) {
    const name = entries[i][0];
    const value = entries[i][1];
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(lines(name))}"`;
    if (typeof value === 'string') {
      add(encode(encoder, `${head}\r\n\r\n${lines(value)}\r\n`));
      continue;
    }
    const type = blobType(value) || 'application/octet-stream';
    add(
      encode(
        encoder,
        `${head}; filename="${quoted(fileName(value))}"\r\nContent-Type: ${type}\r\n\r\n`,
      ),
    );
    add(blobBytes(value));
    add(encode(encoder, '\r\n'));
  }
  add(encode(encoder, `--${boundary}--\r\n`));
  return { bytes: concatenated(chunks), type: `multipart/form-data; boundary=${boundary}` };
}

/** Returns a text with CRLF line ends. */
function lines(text) {
  const plain = string.replaceAll(string.replaceAll(text, '\r\n', '\n'), '\r', '\n');
  return string.replaceAll(plain, '\n', '\r\n');
}

/** Escapes a text for use between quotes. */
function quoted(text) {
  const named = string.replaceAll(string.replaceAll(text, '\n', '%0A'), '\r', '%0D');
  return string.replaceAll(named, '"', '%22');
}

function hex(bytes) {
  let text = '';
  for (let i = 0; i < bytes.length; i++) text += (bytes[i] < 16 ? '0' : '') + digits(bytes[i], 16);
  return text;
}

export function installFormData(global) {
  cloning.isForm = isForm;
  const members = [
    'append',
    'set',
    'delete',
    'get',
    'getAll',
    'has',
    'forEach',
    'entries',
    'keys',
    'values',
  ];
  install(global, FormData, members);
  define(FormData.prototype, iterator, FormData.prototype.entries, false);
}
