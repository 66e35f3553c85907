// Content encodings of bodies, gzip and deflate, undone as a body comes.

import { string, uncurry, whenSettled } from './intrinsics.js';
import { streamFrom } from './streams.js';

const { DecompressionStream, ReadableStream } = globalThis;
const pipeThrough = uncurry(ReadableStream.prototype.pipeThrough);
const getReader = uncurry(ReadableStream.prototype.getReader);
const Reader = new ReadableStream().getReader().constructor;
const read = uncurry(Reader.prototype.read);
const cancelReader = uncurry(Reader.prototype.cancel);

const KNOWN = { __proto__: null, gzip: 'gzip', 'x-gzip': 'gzip', deflate: 'deflate' };

/** The encodings that a header field names, the last one first; none if one is not known. */
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

/** The pieces of a body without its encodings. */
export function decoded(pieces, names, failed) {
  for (let i = 0; i < names.length; i++) pieces = inflated(pieces, names[i], failed);
  return pieces;
}

function inflated(pieces, name, failed) {
  let reader;
  // An error of the connection is told as it is.
  let broken = false;
  let failure;
  // The engine takes a body that was cut off for a complete one.
  const end = lastBytes();
  let check;
  const source = (first) => {
    let waiting = first;
    return {
      async next() {
        if (waiting !== null) {
          const piece = waiting;
          waiting = null;
          return piece;
        }
        try {
          const piece = await pieces.next();
          if (piece !== null) end.add(piece);
          return piece;
        } catch (error) {
          broken = true;
          failure = error;
          throw error;
        }
      },
      cancel: () => pieces.cancel(),
    };
  };
  return {
    async next() {
      if (reader === undefined) {
        const first = await pieces.next();
        // A body without a single byte has nothing to undo.
        if (first === null) return null;
        const format = name === 'deflate' && !hasZlibHead(first) ? 'deflate-raw' : name;
        end.add(first);
        check = format === 'gzip' ? countedBytes() : format === 'deflate' ? adler32() : null;
        reader = getReader(pipeThrough(streamFrom(source(first)), new DecompressionStream(format)));
      }
      let step;
      try {
        step = await read(reader);
      } catch (error) {
        if (broken) throw failure;
        pieces.cancel();
        throw failed(`the body is not valid ${name} data`);
      }
      if (!step.done) {
        if (check !== null) check.add(step.value);
        return step.value;
      }
      if (check !== null && !check.fits(end.get())) throw failed(`the body ends within its ${name} data`);
      return null;
    },
    cancel() {
      const ignore = () => {};
      if (reader !== undefined) whenSettled(cancelReader(reader), ignore, ignore);
      pieces.cancel();
    },
  };
}

/** Some servers leave out what deflate data begins with. */
function hasZlibHead(bytes) {
  if ((bytes[0] & 15) !== 8 || bytes[0] >> 4 > 7) return false;
  return bytes.length < 2 || ((bytes[0] << 8) | bytes[1]) % 31 === 0;
}

/** The last four bytes of all that is added. */
function lastBytes() {
  let last = [];
  return {
    add(piece) {
      const joined = [];
      if (piece.length < 4) for (let i = 0; i < last.length; i++) joined[joined.length] = last[i];
      for (let i = piece.length < 4 ? 0 : piece.length - 4; i < piece.length; i++) joined[joined.length] = piece[i];
      last = [];
      for (let i = joined.length < 4 ? 0 : joined.length - 4; i < joined.length; i++) last[last.length] = joined[i];
    },
    get: () => last,
  };
}

/** The number of bytes, which gzip data ends with: the lowest byte first. */
function countedBytes() {
  let count = 0;
  return {
    add(piece) {
      count = (count + piece.length) % 0x100000000;
    },
    fits: (end) => end.length === 4 && count === end[0] + end[1] * 0x100 + end[2] * 0x10000 + end[3] * 0x1000000,
  };
}

/** The checksum that zlib data ends with: the highest byte first. */
function adler32() {
  let a = 1;
  let b = 0;
  return {
    add(piece) {
      // So many sums do not overflow 32 bits.
      for (let start = 0; start < piece.length; start += 3800) {
        const stop = start + 3800 < piece.length ? start + 3800 : piece.length;
        for (let i = start; i < stop; i++) {
          a += piece[i];
          b += a;
        }
        a %= 65521;
        b %= 65521;
      }
    },
    fits: (end) => end.length === 4 && a === end[2] * 256 + end[3] && b === end[0] * 256 + end[1],
  };
}
