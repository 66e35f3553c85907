// Texts from bytes.

import { uncurry } from './intrinsics.js';

const { TextDecoder, Uint8Array } = globalThis;
const decoder = new TextDecoder();
const decode = uncurry(TextDecoder.prototype.decode);
const part = uncurry(Uint8Array.prototype.subarray);

/** The engine's decoder needs twice the memory of what it is given beside the text itself. */
const PIECE = 1 << 20;

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
