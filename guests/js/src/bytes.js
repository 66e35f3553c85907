// Concatenates bytes, and decodes UTF-8.

import { uncurry } from './intrinsics.js';

const { TextDecoder, Uint8Array } = globalThis;
const decoder = new TextDecoder();
const decode = uncurry(TextDecoder.prototype.decode);
const part = uncurry(Uint8Array.prototype.subarray);
const setBytes = uncurry(Uint8Array.prototype.set);

/**
 * The size in bytes of the chunks that are decoded at once: the engine's decoder needs
 * twice the memory of its input in addition to the text.
 */
const CHUNK_BYTES = 1 << 20;

/** Returns the bytes of all chunks, in order, in a new buffer. */
export function concatenated(chunks) {
  let size = 0;
  for (let i = 0; i < chunks.length; i++) size += chunks[i].length;
  const bytes = new Uint8Array(size);
  for (let i = 0, at = 0; i < chunks.length; at += chunks[i++].length)
    setBytes(bytes, chunks[i], at);
  return bytes;
}

/** Decodes UTF-8, without a byte order mark; invalid bytes are replaced. */
export function utf8(bytes) {
  if (bytes.length <= CHUNK_BYTES) return decode(decoder, bytes);
  const stream = new TextDecoder();
  let text = '';
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    text += decode(stream, part(bytes, at, at + CHUNK_BYTES), { __proto__: null, stream: true });
  }
  return text + decode(stream);
}
