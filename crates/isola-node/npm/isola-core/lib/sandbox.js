'use strict';

// Sandboxes: an interpreter each, one call at a time.

const errors = require('./errors');
const native = require('./native');
const options = require('./options');
const { encode, shown } = require('./args');
const { Events } = require('./events');
const { fromJson } = require('./json');
const { Snapshot } = require('./snapshot');

let adopted;

/** Runs guest code inside of an isolated interpreter. */
class Sandbox {
  #native;
  #bigints;
  /** Streams that run, to be stopped by `close`. At most one has begun. */
  #streams = new Set();
  /**
   * Whether a call is under way that a promise stands for. The native part
   * begins those on another thread, and perhaps not in their order.
   */
  #busy = false;
  /** Settles when the guest is gone; set by `close`. */
  #closing;

  constructor() {
    if (adopted === undefined) throw errors.invalid('a Sandbox comes from template.create');
    this.#native = adopted.sandbox;
    this.#bigints = adopted.bigints;
  }

  /** Makes an object of what the native part created. Not for users. */
  static adopt(sandbox, bigints) {
    adopted = { sandbox, bigints };
    try {
      return new Sandbox();
    } finally {
      adopted = undefined;
    }
  }

  /** Prepares the interpreter, and runs the template's prelude. */
  async start(callOptions) {
    const { signal, limits } = options.call(callOptions);
    if (this.#busy) throw errors.notPending();
    await this.#settle(signal, (cancel) => this.#native.start(limits, cancel));
  }

  /** Runs source code at the top level. */
  async loadScript(code, callOptions) {
    if (typeof code !== 'string') {
      throw errors.invalid(`the code of a script is a string, and not ${shown(code)}`);
    }
    const { signal, limits } = options.call(callOptions, ['name']);
    const name = callOptions?.name ?? undefined;
    if (name !== undefined && typeof name !== 'string') {
      throw errors.invalid(`name should be a string, and not ${shown(name)}`);
    }
    await this.#settle(signal, (cancel) => this.#native.loadScript(code, name, limits, cancel));
  }

  /** Calls a function that a script defined, and gives its result. */
  async run(name, args, kwargs, callOptions) {
    const { signal, limits } = options.call(callOptions);
    const given = prepare(name, args, kwargs);
    const run = (cancel) => this.#native.run(name, given, limits, cancel);
    return fromJson(await this.#settle(signal, run), this.#bigints);
  }

  /** Calls a function, and gives the events of the call as they happen. */
  runStream(name, args, kwargs, callOptions) {
    const { signal, limits } = options.call(callOptions);
    const given = prepare(name, args, kwargs);
    return this.#events(signal, () => this.#native.runStream(name, given, limits));
  }

  /** Ends the interpreter in order, as the end of a process, and closes the sandbox. */
  async finish(callOptions) {
    const { signal, limits } = options.call(callOptions);
    await this.#settle(signal, (cancel) => this.#native.finish(limits, cancel));
  }

  /** The same, and gives the events of it as they happen. */
  finishStream(callOptions) {
    const { signal, limits } = options.call(callOptions);
    return this.#events(signal, () => this.#native.finishStream(limits));
  }

  /** Copies the interpreter as it is; the sandbox goes on. */
  async snapshot() {
    return Snapshot.adopt(await this.#copy(() => this.#native.snapshot()));
  }

  /**
   * Creates sandboxes that go on from where this one is, each on its own, with
   * its limits, mounts, environment and handlers. They are started.
   */
  async fork(count = 1) {
    if (!Number.isInteger(count) || count < 0 || count > 0xffffffff) {
      throw errors.invalid(`count should be a whole number, 0 or more, and not ${shown(count)}`);
    }
    const children = await this.#copy(() => this.#native.fork(count));
    return children.map((child) => Sandbox.adopt(child, this.#bigints));
  }

  /** Stops what runs, and frees the guest. */
  close() {
    if (this.#closing !== undefined) return;
    this.#closing = this.#native.close();
    for (const stream of this.#streams) stream.stop();
  }

  /** The same; resolves when the guest is gone. */
  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    this.close();
    await this.#closing;
  }

  async #copy(begin) {
    this.#refuse();
    this.#busy = true;
    try {
      const copied = await begin();
      if (copied.code !== undefined) throw errors.fromFailure(copied);
      return copied;
    } finally {
      this.#busy = false;
    }
  }

  #refuse() {
    if (this.#closing !== undefined) throw errors.closed('sandbox');
    if (this.#busy) throw errors.busy();
  }

  #events(signal, start) {
    const begin = () => {
      this.#refuse();
      const begun = start();
      if (begun.code !== undefined) throw errors.fromFailure(begun);
      return begun;
    };
    return new Events(begin, signal, this.#bigints, this.#streams);
  }

  /** Waits for a call, and stops it when its signal says so. */
  async #settle(signal, begin) {
    this.#refuse();
    if (signal?.aborted) throw errors.aborted(signal);
    this.#busy = true;
    try {
      if (signal === undefined) return this.#result(await later(begin(undefined)));
      const cancel = new (native.addon().Cancel)();
      const stop = () => cancel.cancel();
      signal.addEventListener('abort', stop, { once: true });
      try {
        return this.#result(await later(begin(cancel)), signal);
      } finally {
        signal.removeEventListener('abort', stop);
      }
    } finally {
      this.#busy = false;
    }
  }

  #result(outcome, signal) {
    // A handler may have closed it, and the call have ended before that came
    // through: whoever closes a sandbox gets no more results from it.
    if (this.#closing !== undefined) throw errors.closed('sandbox');
    if (typeof outcome === 'string') return outcome;
    throw outcome.code === 'aborted' ? errors.aborted(signal) : errors.fromFailure(outcome);
  }
}

/**
 * What the native part gives: a promise, or what became of a quick call. That
 * one is told in another turn of the event loop, or a row of such calls would
 * keep everybody else from theirs.
 */
async function later(outcome) {
  if (typeof outcome.then === 'function') return outcome;
  await new Promise(setImmediate);
  return outcome;
}

function prepare(name, args, kwargs) {
  if (typeof name !== 'string') {
    throw errors.invalid(`the name of a function is a string, and not ${shown(name)}`);
  }
  return encode(args, kwargs);
}

module.exports = { Sandbox };
