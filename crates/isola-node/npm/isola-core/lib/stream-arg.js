'use strict';

// Stream arguments: arguments whose values the host sends while the call runs.

const { invalid, shown } = require('./errors');
const { toJson } = require('./json');
const { ValueQueue } = require('./value-queue');

const DEFAULT_CAPACITY = 1024;

const sources = new WeakMap();

/** An argument of a call over which the guest iterates while the host adds values. */
class StreamArg {
  #source;

  /** @param {{ capacity?: number, name?: string | null }} [options] */
  constructor(options = {}) {
    const { capacity, name } = checked(options);
    this.#source = new Source(new ValueQueue(capacity), name);
    sources.set(this, this.#source);
  }

  /**
   * Creates a stream of the values of an iterable, which is read at the guest's pace.
   *
   * @param {Iterable<unknown> | AsyncIterable<unknown>} values
   * @param {{ capacity?: number, name?: string | null }} [options]
   */
  static from(values, options) {
    if (
      typeof values?.[Symbol.asyncIterator] !== 'function' &&
      typeof values?.[Symbol.iterator] !== 'function'
    ) {
      throw invalid(`the values of a StreamArg must be an iterable, not ${shown(values)}`);
    }
    const stream = new StreamArg(options);
    stream.#source.values = values;
    return stream;
  }

  /** The name of the argument, or `null` for a positional one. */
  get name() {
    return this.#source.name;
  }

  /** The maximum number of values that the guest has not read. */
  get capacity() {
    return this.#source.queue.capacity;
  }

  /** Waits for room and adds a value. */
  async send(value) {
    this.#ensureManual();
    await this.#source.queue.send(toJson(value, 'the value'));
  }

  /** Adds a value without waiting; throws a `StreamFullError` if there is no room for it. */
  push(value) {
    this.#ensureManual();
    this.#source.queue.push(toJson(value, 'the value'));
  }

  /** Ends the stream after the values that were added. */
  end() {
    this.#ensureManual();
    this.#source.queue.end();
  }

  /** Refuses a stream that is a part of a value, where the guest could not read it. */
  toJSON() {
    throw invalid('a StreamArg is an argument of its own: it cannot be a part of a value');
  }

  #ensureManual() {
    if (this.#source.values !== undefined) {
      throw invalid('this stream takes its values from an iterable: do not add values or end it');
    }
  }
}

/** The internal side of a stream argument: its queue, and the iterable that fills it. */
class Source {
  /** The iterable, if there is one. */
  values;
  /** True after the stream was given to a call. */
  isUsed = false;
  #iterator;

  constructor(queue, name) {
    this.queue = queue;
    this.name = name;
  }

  /** Starts to read the iterable, when the call starts. */
  open() {
    if (this.values !== undefined) void this.#fill();
  }

  /** Closes the stream, when its call has ended. */
  close() {
    this.queue.close();
    this.#release();
  }

  /** Moves values from the iterable into the queue while there is room. Never rejects. */
  async #fill() {
    const { queue, values } = this;
    const isAsync = typeof values[Symbol.asyncIterator] === 'function';
    try {
      this.#iterator = isAsync ? values[Symbol.asyncIterator]() : values[Symbol.iterator]();
      for (let index = 0; ; index += 1) {
        await queue.room();
        if (queue.isClosed) return;
        const step = await this.#step(this.#iterator);
        if (queue.isClosed) return;
        if (step.done) return queue.end();
        // The values of a synchronous iterable may be promises, as in `for await`.
        const value = isAsync ? step.value : await step.value;
        queue.push(toJson(value, `value ${index} of the stream`));
      }
    } catch (error) {
      queue.fail(error);
      this.#release();
    }
  }

  /** Advances the iterator, and forgets it if it has ended or failed. */
  async #step(iterator) {
    try {
      const step = await iterator.next();
      if (step.done) this.#iterator = undefined;
      return step;
    } catch (error) {
      this.#iterator = undefined;
      throw error;
    }
  }

  /** Calls `return` of an iterator that has not ended. */
  #release() {
    const iterator = this.#iterator;
    this.#iterator = undefined;
    // A generator returns only when what it awaits has settled, so nothing waits for it.
    // No call is left that its error could fail.
    void (async () => iterator?.return?.())().catch(() => {});
  }
}

/** Returns the internal side of a stream argument, or `undefined` for any other value. */
function sourceOf(value) {
  return sources.get(value);
}

function checked(options) {
  if (typeof options !== 'object' || options === null) {
    throw invalid(`StreamArg: options must be an object, not ${shown(options)}`);
  }
  for (const option of Object.keys(options)) {
    if (option !== 'capacity' && option !== 'name') {
      throw invalid(`StreamArg has no option "${option}": the options are capacity, name`);
    }
  }
  const capacity = options.capacity ?? DEFAULT_CAPACITY;
  if (!Number.isSafeInteger(capacity) || capacity < 1) {
    throw invalid(`capacity must be an integer of at least 1, not ${shown(capacity)}`);
  }
  const name = options.name ?? null;
  if (name !== null && typeof name !== 'string') {
    throw invalid(`the name of an argument must be a string, not ${shown(name)}`);
  }
  return { capacity, name };
}

module.exports = { StreamArg, sourceOf };
