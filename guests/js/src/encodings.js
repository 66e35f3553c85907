// Decodes the content encodings gzip and deflate while a body is received.

import { string, uncurry, whenSettled } from './intrinsics.js';
import { streamFrom } from './streams.js';

const { DecompressionStream, ReadableStream } = globalThis;
const pipeThrough = uncurry(ReadableStream.prototype.pipeThrough);
const getReader = uncurry(ReadableStream.prototype.getReader);
const Reader = new ReadableStream().getReader().constructor;
const read = uncurry(Reader.prototype.read);
const cancelReader = uncurry(Reader.prototype.cancel);

const KNOWN = { __proto__: null, gzip: 'gzip', 'x-gzip': 'gzip', deflate: 'deflate' };

/** Returns the encodings of a header field, the last one first; none if one is unknown. */
export function encodings(field) {
  if (field === null) return [];
  const names = [];
  let name = '';
  for (let i = 0; i <= field.length; i++) {
    const letter = i < field.length ? field[i] : ',';
    if (letter === ' ' || letter === '\t') continue;
    if (letter !== ',') {
      name += string.toLowerCase(letter);
      continue;
    }
    if (name !== '' && name !== 'identity') {
      if (KNOWN[name] === undefined) return [];
      names[names.length] = KNOWN[name];
    }
    name = '';
  }
  const reversed = [];
  for (let i = names.length - 1; i >= 0; i--) reversed[reversed.length] = names[i];
  return reversed;
}

/** Returns the source of a body's decoded chunks. */
export function decoded(chunks, names, failed) {
  for (let i = 0; i < names.length; i++) chunks = inflated(chunks, names[i], failed);
  return chunks;
}

function inflated(chunks, name, failed) {
  let reader;
  // An error of the connection is reported unchanged.
  let broken = false;
  let failure;
  // The engine accepts a truncated body as complete, so the checksum is verified here.
  const end = lastBytes();
  let check;
  const source = (first) => {
    let waiting = first;
    return {
      async next() {
        if (waiting !== null) {
          const chunk = waiting;
          waiting = null;
          return chunk;
        }
        try {
          const chunk = await chunks.next();
          if (chunk !== null) end.add(chunk);
          return chunk;
        } catch (error) {
          broken = true;
          failure = error;
          throw error;
        }
      },
      cancel: () => chunks.cancel(),
    };
  };
  return {
    async next() {
      if (reader === undefined) {
        const first = await chunks.next();
        // An empty body has nothing to decode.
        if (first === null) return null;
        const format = name === 'deflate' && !hasZlibHeader(first) ? 'deflate-raw' : name;
        end.add(first);
        check = format === 'gzip' ? countedBytes() : format === 'deflate' ? adler32() : null;
        reader = getReader(pipeThrough(streamFrom(source(first)), new DecompressionStream(format)));
      }
      let step;
      try {
        step = await read(reader);
      } catch (error) {
        if (broken) throw failure;
        chunks.cancel();
        throw failed(`the body is not valid ${name} data`);
      }
      if (!step.done) {
        if (check !== null) check.add(step.value);
        return step.value;
      }
      if (check !== null && !check.fits(end.get()))
        throw failed(`the body ends within its ${name} data`);
      return null;
    },
    cancel() {
      const ignore = () => {};
      if (reader !== undefined) whenSettled(cancelReader(reader), ignore, ignore);
      chunks.cancel();
    },
  };
}

/** Returns whether deflate data has the zlib header, which some servers omit. */
function hasZlibHeader(bytes) {
  if ((bytes[0] & 15) !== 8 || bytes[0] >> 4 > 7) return false;
  return bytes.length < 2 || ((bytes[0] << 8) | bytes[1]) % 31 === 0;
}

/** Returns an object that keeps the last four bytes that were added. */
function lastBytes() {
  let last = [];
  return {
    add(chunk) {
      const joined = [];
      if (chunk.length < 4) for (let i = 0; i < last.length; i++) joined[joined.length] = last[i];
      for (let i = chunk.length < 4 ? 0 : chunk.length - 4; i < chunk.length; i++)
        joined[joined.length] = chunk[i];
      last = [];
      for (let i = joined.length < 4 ? 0 : joined.length - 4; i < joined.length; i++)
        last[last.length] = joined[i];
    },
    get: () => last,
  };
}

/** Returns a counter of bytes, with which gzip data ends, in little-endian order. */
function countedBytes() {
  let count = 0;
  return {
    add(chunk) {
      count = (count + chunk.length) % 0x100000000;
    },
    fits: (end) =>
      end.length === 4 && count === end[0] + end[1] * 0x100 + end[2] * 0x10000 + end[3] * 0x1000000,
  };
}

/** Returns the checksum with which zlib data ends, in big-endian order. */
function adler32() {
  let a = 1;
  let b = 0;
  return {
    add(chunk) {
      // The sums of 3800 bytes do not overflow 32 bits.
      for (let start = 0; start < chunk.length; start += 3800) {
        const stop = start + 3800 < chunk.length ? start + 3800 : chunk.length;
        for (let i = start; i < stop; i++) {
          a += chunk[i];
          b += a;
        }
        a %= 65521;
        b %= 65521;
      }
    },
    fits: (end) => end.length === 4 && a === end[2] * 256 + end[3] && b === end[0] * 256 + end[1],
  };
}
