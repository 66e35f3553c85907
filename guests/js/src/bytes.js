// Bytes: lists of pieces as one, and texts of UTF-8.

import { uncurry } from './intrinsics.js';

const { TextDecoder, Uint8Array } = globalThis;
const decoder = new TextDecoder();
const decode = uncurry(TextDecoder.prototype.decode);
const part = uncurry(Uint8Array.prototype.subarray);
const setBytes = uncurry(Uint8Array.prototype.set);

/** The engine's decoder needs twice the memory of what it is given beside the text itself. */
const PIECE = 1 << 20;

/** The bytes of all pieces, in their order, in a buffer of their own. */
export function concatenated(pieces) {
  let size = 0;
  for (let i = 0; i < pieces.length; i++) size += pieces[i].length;
  const bytes = new Uint8Array(size);
  for (let i = 0, at = 0; i < pieces.length; at += pieces[i++].length) setBytes(bytes, pieces[i], at);
  return bytes;
}

/** UTF-8 as text, without a byte order mark; what is not UTF-8 is replaced. */
export function utf8(bytes) {
  if (bytes.length <= PIECE) return decode(decoder, bytes);
  const stream = new TextDecoder();
  let text = '';
  for (let at = 0; at < bytes.length; at += PIECE) {
    text += decode(stream, part(bytes, at, at + PIECE), { __proto__: null, stream: true });
  }
  return text + decode(stream);
}
