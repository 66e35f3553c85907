/**
 * Names of files, which need not be UTF-8.
 *
 * A byte that is not part of valid UTF-8 is a lone surrogate in the string, U+DC80 to U+DCFF, as
 * in the Python package: a name that `ls` returned can be passed to `download` unchanged.
 */

import { TextDecoder } from 'node:util';

import { IsorunError } from './errors.js';

/** Returns a string in the encoding of a query, with such bytes restored. */
export function encodeName(name: string): string {
  let encoded = '';
  for (const character of name) {
    const point = character.codePointAt(0) ?? 0;
    if (point >= 0xdc80 && point <= 0xdcff) {
      encoded += percent(point - 0xdc00);
    } else if (/[A-Za-z0-9._~-]/.test(character)) {
      encoded += character;
    } else if (/\p{Surrogate}/u.test(character)) {
      throw new IsorunError(
        `${JSON.stringify(name)} is not a valid name: it contains half of a UTF-16 pair`,
      );
    } else {
      for (const byte of Buffer.from(character)) encoded += percent(byte);
    }
  }
  return encoded;
}

/** Returns the name for bytes in percent-encoding. */
export function decodeName(encoded: string): string {
  const bytes: number[] = [];
  const source = Buffer.from(encoded);
  for (let at = 0; at < source.length; at++) {
    const digits = source.toString('latin1', at + 1, at + 3);
    if (source[at] === 0x25 && /^[0-9A-Fa-f]{2}$/.test(digits)) {
      bytes.push(Number.parseInt(digits, 16));
      at += 2;
    } else {
      bytes.push(source[at] ?? 0);
    }
  }
  return decodeBytes(Buffer.from(bytes));
}

function decodeBytes(bytes: Buffer): string {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let name = '';
  for (let at = 0; at < bytes.length;) {
    const length = characterLength(bytes, at, strict);
    name +=
      length === 0
        ? String.fromCharCode(0xdc00 + (bytes[at] ?? 0))
        : bytes.toString('utf8', at, at + length);
    at += Math.max(length, 1);
  }
  return name;
}

/** Returns the length of the valid character at a position, or 0 if there is none. */
function characterLength(bytes: Buffer, at: number, strict: TextDecoder): number {
  const first = bytes[at] ?? 0;
  if (first < 0x80) return 1;
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  try {
    strict.decode(bytes.subarray(at, at + length));
    return length;
  } catch {
    return 0;
  }
}

function percent(byte: number): string {
  return `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
}
