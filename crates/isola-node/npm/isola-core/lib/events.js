'use strict';

// The events of a call, as an asynchronous generator.
//
// It is not written as `async function*`: the `return` of such a generator waits
// for a pending `next`, and this one has to stop the guest at that moment.

const errors = require('./errors');
const { fromJson } = require('./json');

class Events {
  /**
   * The call: `open` starts it and returns the native stream or a promise of it; `stop`,
   * if there is one, is called when the call has ended or is stopped.
   */
  #call;
  #signal;
  #bigints;
  /** The open event streams of the sandbox. */
  #open;
  /** What `open` returned: the native stream, or a promise of it. */
  #opening;
  /** The native stream, created by the first `next`. */
  #stream;
  /** Events that were received and not returned yet, in reverse order. */
  #ready = [];
  #stopped = false;
  #finished = false;
  /** The promise of the last `next`; calls of `next` are processed one after another. */
  #last = Promise.resolve();

  constructor(call, signal, bigints, open) {
    this.#call = call;
    this.#signal = signal;
    this.#bigints = bigints;
    this.#open = open;
  }

  next() {
    const next = this.#last.then(() => this.#next());
    this.#last = next.catch(() => {});
    return next;
  }

  async return(value) {
    await this.#leave();
    return { done: true, value };
  }

  async throw(error) {
    await this.#leave();
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
    this.#stopped = true;
    this.#stream?.cancel();
    this.#call.stop?.();
  }

  /** Stops the guest and waits until it has stopped. */
  async #leave() {
    this.#finish();
    // A call that is being started ends like one that has started.
    await Promise.resolve(this.#opening).catch(() => {});
    await this.#stream?.ended();
  }

  async #next() {
    if (this.#finished) return { done: true, value: undefined };
    if (this.#stream === undefined) await this.#start();
    if (this.#finished) return { done: true, value: undefined };
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

  async #start() {
    if (this.#signal?.aborted) {
      this.#finish();
      throw errors.aborted(this.#signal);
    }
    this.#open.add(this);
    this.#signal?.addEventListener('abort', this.#abort, { once: true });
    try {
      this.#opening = this.#call.open();
      this.#stream = await this.#opening;
    } catch (error) {
      const wasLeft = this.#finished;
      this.#finish();
      if (wasLeft) return;
      throw this.#signal?.aborted ? errors.aborted(this.#signal) : error;
    }
    if (this.#stopped) this.#stream.cancel();
  }

  #abort = () => this.stop();

  #finish() {
    this.#finished = true;
    this.#ready = [];
    this.#open.delete(this);
    this.#signal?.removeEventListener('abort', this.#abort);
    this.stop();
  }

  #event({ type, data, level, failure }) {
    switch (type) {
      case 'code':
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
