'use strict';

// The events of a call, as an asynchronous generator.
//
// It is not written as `async function*`: the `return` of such a generator waits
// for a pending `next`, and this one has to stop the guest at that moment.

const errors = require('./errors');
const { fromJson } = require('./json');

class Events {
  #open;
  #signal;
  #bigints;
  #streams;
  /** The native stream, created by the first `next`. */
  #stream;
  /** Events that were received and not returned yet, in reverse order. */
  #ready = [];
  #finished = false;
  /** The promise of the last `next`; calls of `next` are processed one after another. */
  #last = Promise.resolve();

  constructor(open, signal, bigints, streams) {
    this.#open = open;
    this.#signal = signal;
    this.#bigints = bigints;
    this.#streams = streams;
  }

  next() {
    const next = this.#last.then(() => this.#next());
    this.#last = next.catch(() => {});
    return next;
  }

  async return(value) {
    this.#finish();
    await this.#stream?.ended();
    return { done: true, value };
  }

  async throw(error) {
    this.#finish();
    await this.#stream?.ended();
    throw error;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.return();
  }

  /** Stops the guest. Events that it has sent already are still returned. */
  stop() {
    this.#stream?.cancel();
  }

  async #next() {
    if (this.#finished) return { done: true, value: undefined };
    if (this.#stream === undefined) this.#start();
    if (this.#ready.length === 0) {
      const taken = await this.#stream.next();
      if (this.#finished) return { done: true, value: undefined };
      this.#ready = taken.reverse();
    }
    if (this.#signal?.aborted) {
      this.#finish();
      throw errors.aborted(this.#signal);
    }
    // Without a record the call was stopped, and only `close` can have done that.
    const record = this.#ready.pop() ?? {
      type: 'error',
      failure: { code: 'closed', message: 'sandbox is closed: its owner closed it' },
    };
    if (record.type === 'end' || record.type === 'error') this.#finish();
    return { done: false, value: this.#event(record) };
  }

  #start() {
    if (this.#signal?.aborted) {
      this.#finish();
      throw errors.aborted(this.#signal);
    }
    try {
      this.#stream = this.#open();
    } catch (error) {
      this.#finish();
      throw error;
    }
    this.#streams.add(this);
    this.#signal?.addEventListener('abort', this.#abort, { once: true });
  }

  #abort = () => this.stop();

  #finish() {
    this.#finished = true;
    this.#ready = [];
    this.#streams.delete(this);
    this.#signal?.removeEventListener('abort', this.#abort);
    this.#stream?.cancel();
  }

  #event({ type, data, level, failure }) {
    switch (type) {
      case 'result':
      case 'end':
        return { type, data: fromJson(data, this.#bigints) };
      case 'error': {
        const error = errors.fromFailure(failure);
        return { type, data: error.message, error };
      }
      case 'log':
        return { type, data, level };
      default:
        return { type, data };
    }
  }
}

module.exports = { Events };
