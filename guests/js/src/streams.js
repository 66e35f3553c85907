// Missing features of the engine's streams: reading one with `for await`, and creating
// one from an iterable; and functions with which the runner itself reads and creates
// streams.

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

/** Returns all bytes of a stream of bytes. */
export async function readAll(stream) {
  const chunks = [];
  await eachChunk(stream, (chunk) => {
    chunks[chunks.length] = chunk;
  });
  return concatenated(chunks);
}

/**
 * Passes each chunk of a stream of bytes to a function, and waits for it. If it
 * returns false, the stream is cancelled.
 */
export async function eachChunk(stream, take) {
  const reader = getReader(stream);
  for (;;) {
    const { done, value } = await read(reader);
    if (done) return;
    if (!(value instanceof Uint8Array)) {
      const error = new SafeTypeError('the chunks of a body stream must be of type Uint8Array');
      cancel(reader, error);
      throw error;
    }
    if ((await take(value)) === false) {
      cancel(reader, undefined);
      return;
    }
  }
}

function cancel(reader, reason) {
  const ignore = () => {};
  whenSettled(cancelReader(reader, reason), ignore, ignore);
}

/** Creates a stream of what `next` returns, until it returns null. It is read on demand. */
export function streamFrom({ next, cancel }) {
  return new ReadableStream(
    {
      async pull(controller) {
        const chunk = await next();
        if (chunk === null) controller.close();
        else controller.enqueue(chunk);
      },
      cancel,
    },
    { highWaterMark: 0 },
  );
}

const AsyncIterator = getPrototypeOf(getPrototypeOf(async function* () {}).prototype);

/** The iterator of a stream for `for await`; leaving the loop cancels the stream. */
class StreamIterator {
  #reader;
  #keeps;
  #done = false;
  // One read after another, as the standard requires.
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

/** Implements `ReadableStream.from`: creates a stream of the items of an iterable. */
function from(iterable) {
  const method = iterable?.[asyncIterator] ?? iterable?.[iterator];
  if (typeof method !== 'function')
    throw new SafeTypeError('ReadableStream.from: the argument must be iterable');
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
