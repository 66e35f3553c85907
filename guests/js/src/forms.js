// Parses forms: `multipart/form-data` (RFC 7578) and urlencoded ones.

import { blobOf, fileOf } from './blob.js';
import { FormData } from './form-data.js';
import { regExpExec, SafeTypeError, string, uncurry } from './intrinsics.js';

const { TextDecoder, Uint8Array, URLSearchParams } = globalThis;
const append = uncurry(FormData.prototype.append);
const decoder = new TextDecoder();
const decode = uncurry(TextDecoder.prototype.decode);
const subarray = uncurry(Uint8Array.prototype.subarray);
const copyOf = uncurry(Uint8Array.prototype.slice);
const indexOf = uncurry(Uint8Array.prototype.indexOf);
const eachParameter = uncurry(URLSearchParams.prototype.forEach);

const CR = 13;
const LF = 10;
const DASH = 45;

/** Parses a form, according to its content type. */
export function readForm(bytes, type) {
  const essence = string.toLowerCase(regExpExec(/^[^;\s]*/, type)[0]);
  const form = new FormData();
  if (essence === 'application/x-www-form-urlencoded') {
    eachParameter(new URLSearchParams(decode(decoder, bytes)), (value, name) =>
      append(form, name, value),
    );
    return form;
  }
  const boundary =
    essence === 'multipart/form-data'
      ? regExpExec(/;\s*boundary=(?:"([^"]+)"|([^\s;"]+))/i, type)
      : null;
  if (boundary === null) throw new SafeTypeError(`the body is not a form: its type is ${type}`);
  readParts(bytes, latin1Bytes(`--${boundary[1] ?? boundary[2]}`), form);
  return form;
}

function readParts(bytes, delimiter, form) {
  let at = find(bytes, delimiter, 0);
  for (;;) {
    if (at < 0) throw malformed('a boundary');
    at += delimiter.length;
    if (bytes[at] === DASH && bytes[at + 1] === DASH) return;
    if (bytes[at] !== CR || bytes[at + 1] !== LF) throw malformed('a line break after a boundary');
    at += 2;
    const part = { name: undefined, filename: undefined, type: undefined };
    for (;;) {
      const end = lineEnd(bytes, at);
      const line = decode(decoder, subarray(bytes, at, end));
      at = end + 2;
      if (line === '') break;
      readField(line, part);
    }
    if (part.name === undefined) throw malformed('the name of a part');
    const next = find(bytes, delimiter, at);
    if (next < at + 2 || bytes[next - 2] !== CR || bytes[next - 1] !== LF)
      throw malformed('the end of a part');
    const content = subarray(bytes, at, next - 2);
    if (part.filename === undefined) append(form, part.name, decode(decoder, content));
    else
      append(
        form,
        part.name,
        fileOf(blobOf(copyOf(content), part.type ?? 'text/plain'), part.filename),
      );
    at = next;
  }
}

function readField(line, part) {
  const field = regExpExec(/^([^:]*):\s*(.*)$/, line);
  if (field === null) throw malformed('a header field');
  const name = string.toLowerCase(field[1]);
  if (name === 'content-type') part.type = field[2];
  if (name !== 'content-disposition') return;
  part.name = parameter(/[;\s]name="([^"]*)"/i, field[2]);
  part.filename = parameter(/[;\s]filename="([^"]*)"/i, field[2]);
}

function parameter(pattern, text) {
  const found = regExpExec(pattern, text);
  if (found === null) return undefined;
  // Decode the characters that a name cannot contain.
  let value = string.replaceAll(found[1], '%22', '"');
  value = string.replaceAll(value, '%0D', '\r');
  return string.replaceAll(value, '%0A', '\n');
}

function lineEnd(bytes, from) {
  for (let at = indexOf(bytes, CR, from); at >= 0; at = indexOf(bytes, CR, at + 1))
    if (bytes[at + 1] === LF) return at;
  throw malformed('the end of a header field');
}

function find(bytes, wanted, from) {
  for (let at = indexOf(bytes, DASH, from); at >= 0; at = indexOf(bytes, DASH, at + 1)) {
    let same = 1;
    while (same < wanted.length && bytes[at + same] === wanted[same]) same++;
    if (same === wanted.length) return at;
  }
  return -1;
}

function latin1Bytes(text) {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = string.charCodeAt(text, i);
  return bytes;
}

const malformed = (what) => new SafeTypeError(`the body is not a form: it lacks ${what}`);
