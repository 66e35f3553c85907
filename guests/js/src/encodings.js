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
          return await pieces.next();
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
      return step.done ? null : step.value;
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
