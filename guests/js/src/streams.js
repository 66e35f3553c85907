// What the engine's streams lack: reading one with `for await`, and making one
// of anything that can be iterated; and how the runner itself reads and makes
// them.

import { concatenated } from './bytes.js';
import {
  apply,
  asyncIterator,
  define,
  getPrototypeOf,
  iterator,
  SafeTypeError,
  uncurry,
  whenSettled,
} from './intrinsics.js';

const { ReadableStream, Uint8Array } = globalThis;
const getReader = uncurry(ReadableStream.prototype.getReader);
const Reader = new ReadableStream().getReader().constructor;
const read = uncurry(Reader.prototype.read);
const releaseLock = uncurry(Reader.prototype.releaseLock);
const cancelReader = uncurry(Reader.prototype.cancel);

/** All bytes of a stream of bytes. */
export async function readAll(stream) {
  const pieces = [];
  await eachPiece(stream, (piece) => {
    pieces[pieces.length] = piece;
  });
  return concatenated(pieces);
}

/**
 * Gives each piece of a stream of bytes to a function, and waits for it. If
 * that gives false, nothing more is wanted.
 */
export async function eachPiece(stream, take) {
  const reader = getReader(stream);
  for (;;) {
    const { done, value } = await read(reader);
    if (done) return;
    if (!(value instanceof Uint8Array)) {
      const error = new SafeTypeError('a stream that is a body must give pieces of type Uint8Array');
      giveUp(reader, error);
      throw error;
    }
    if ((await take(value)) === false) {
      giveUp(reader, undefined);
      return;
    }
  }
}

function giveUp(reader, reason) {
  const ignore = () => {};
  whenSettled(cancelReader(reader, reason), ignore, ignore);
}

/** A stream of what `next` gives, until it gives null; read when it is asked for. */
export function streamFrom({ next, cancel }) {
  return new ReadableStream(
    {
      async pull(controller) {
        const piece = await next();
        if (piece === null) controller.close();
        else controller.enqueue(piece);
      },
      cancel,
    },
    { highWaterMark: 0 },
  );
}

const AsyncIterator = getPrototypeOf(getPrototypeOf(async function* () {}).prototype);

/** Reads a stream for `for await`; leaving the loop cancels it. */
class StreamIterator {
  #reader;
  #keeps;
  #done = false;
  // One read after another, as the standard wants it.
  #last = undefined;

  constructor(stream, keeps) {
    this.#reader = getReader(stream);
    this.#keeps = keeps;
  }

  next() {
    return (this.#last = this.#after(this.#last, () => this.#read()));
  }

  return(value) {
    return (this.#last = this.#after(this.#last, () => this.#stop(value)));
  }

  async #after(earlier, step) {
    try {
      await earlier;
    } catch {}
    return step();
  }

  async #read() {
    if (this.#done) return { done: true, value: undefined };
    let step;
    try {
      step = await read(this.#reader);
    } catch (error) {
      this.#done = true;
      releaseLock(this.#reader);
      throw error;
    }
    if (step.done) {
      this.#done = true;
      releaseLock(this.#reader);
    }
    return step;
  }

  async #stop(value) {
    if (!this.#done) {
      this.#done = true;
      const cancelled = this.#keeps ? undefined : cancelReader(this.#reader, value);
      releaseLock(this.#reader);
      await cancelled;
    }
    return { done: true, value };
  }
}
Object.setPrototypeOf(StreamIterator.prototype, AsyncIterator);

function values(options = undefined) {
  return new StreamIterator(this, Boolean(options?.preventCancel));
}

/** `ReadableStream.from`: a stream of the items of an iterable. */
function from(iterable) {
  const method = iterable?.[asyncIterator] ?? iterable?.[iterator];
  if (typeof method !== 'function') throw new SafeTypeError('ReadableStream.from: the argument cannot be iterated');
  const source = apply(method, iterable, []);
  const { next } = source;
  return new ReadableStream(
    {
      async pull(controller) {
        const step = await apply(next, source, []);
        if (step.done) controller.close();
        else controller.enqueue(await step.value);
      },
      async cancel(reason) {
        await source.return?.(reason);
      },
    },
    { highWaterMark: 0 },
  );
}

export function installStreams() {
  define(ReadableStream.prototype, 'values', values, true);
  define(ReadableStream.prototype, asyncIterator, values, false);
  define(ReadableStream, 'from', from, true);
}
