'use strict';

// The values of a stream argument that the guest has not taken: a queue of JSON texts
// with a maximum length, filled by the host and emptied by the guest.

const errors = require('./errors');

/** The maximum number of values in one batch. */
const MAX_BATCH_VALUES = 256;

// The text around the values of a batch: `{"items":[],"done":false}`.
const ENVELOPE_BYTES = 25;

class ValueQueue {
  #texts = [];
  /** Values that wait for room. There are none unless the queue is full. */
  #waiting = [];
  #ended = false;
  #closed = false;
  /** The error that ended the stream, in an object because any value can be thrown. */
  #failure;
  /** Resolved at the next change of the queue, if anything waits for one. */
  #change;

  /** @param {number} capacity the maximum number of values */
  constructor(capacity) {
    this.capacity = capacity;
  }

  get isClosed() {
    return this.#closed;
  }

  get #isFull() {
    return this.#texts.length >= this.capacity;
  }

  /** Waits for room and adds a value. Values keep their order. */
  async send(text) {
    this.#ensureOpen();
    if (!this.#isFull) return this.#add(text);
    await new Promise((resolve, reject) => this.#waiting.push({ text, resolve, reject }));
  }

  /** Adds a value; throws if there is no room for it. */
  push(text) {
    this.#ensureOpen();
    if (this.#isFull) throw errors.streamFull(this.capacity);
    this.#add(text);
  }

  /** Waits until there is room for a value, or the queue is closed. */
  async room() {
    while (this.#isFull && !this.#closed) await this.#nextChange();
  }

  /** Takes no more values. Those that were added before are still delivered. */
  end() {
    if (this.#ended || this.#closed) return;
    this.#ended = true;
    this.#notify();
  }

  /** Ends the stream with an error, which the guest gets after the values before it. */
  fail(error) {
    if (this.#ended || this.#closed) return;
    this.#failure = { error };
    this.end();
  }

  /** Discards the values: the call has ended. */
  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#texts = [];
    for (const { reject } of this.#waiting.splice(0)) reject(callEnded());
    this.#notify();
  }

  /**
   * Waits for values and takes a batch of them, as the JSON text
   * `{"items":[...],"done":...}`. A batch is longer than `maxBytes` only if its single
   * value is.
   */
  async take(maxBytes) {
    while (this.#texts.length === 0 && !this.#ended && !this.#closed) {
      await this.#nextChange();
      // Whatever the host adds in this turn of the event loop fits into one batch.
      await new Promise(setImmediate);
    }
    if (this.#closed) throw callEnded();
    if (this.#texts.length === 0 && this.#failure !== undefined) throw this.#failure.error;
    const items = this.#texts.splice(0, this.#batchLength(maxBytes));
    while (this.#waiting.length > 0 && !this.#isFull) {
      const { text, resolve } = this.#waiting.shift();
      this.#texts.push(text);
      resolve();
    }
    this.#notify();
    // A failure is the result of the next batch.
    const done = this.#ended && this.#texts.length === 0 && this.#failure === undefined;
    return `{"items":[${items.join()}],"done":${done}}`;
  }

  /** Returns the number of values that the next batch has. */
  #batchLength(maxBytes) {
    let bytes = ENVELOPE_BYTES;
    let length = 0;
    while (length < this.#texts.length && length < MAX_BATCH_VALUES) {
      // The comma after the value counts, too.
      bytes += Buffer.byteLength(this.#texts[length]) + 1;
      if (bytes > maxBytes && length > 0) break;
      length += 1;
    }
    return length;
  }

  #ensureOpen() {
    if (this.#closed) throw callEnded();
    if (this.#ended)
      throw errors.streamClosed('the stream has been ended: it takes no more values');
  }

  #add(text) {
    this.#texts.push(text);
    this.#notify();
  }

  #nextChange() {
    if (this.#change === undefined) {
      let resolve;
      const promise = new Promise((settle) => (resolve = settle));
      this.#change = { promise, resolve };
    }
    return this.#change.promise;
  }

  #notify() {
    this.#change?.resolve();
    this.#change = undefined;
  }
}

/** Creates the error of a stream whose call has ended. */
function callEnded() {
  return errors.streamClosed('the stream is closed: its call has ended');
}

module.exports = { ValueQueue, callEnded };
