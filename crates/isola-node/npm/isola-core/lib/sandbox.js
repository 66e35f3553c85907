'use strict';

// Sandboxes. Each has an interpreter and runs one call at a time.

const errors = require('./errors');
const native = require('./native');
const options = require('./options');
const { encode } = require('./args');
const { Contexts } = require('./contexts');
const { ExecutionBuilder } = require('./code');
const { Events } = require('./events');
const { Files } = require('./files');
const { fromJson } = require('./json');
const { Snapshot } = require('./snapshot');

let adopted;

/** An isolated interpreter that runs guest code. */
class Sandbox {
  #native;
  #runtime;
  #bigints;
  /** The stream arguments of running calls, of this sandbox and its forks. */
  #streamArgs;
  /** True if the guest has the function that calls with stream arguments need. */
  #hasStreamHelper;
  /** Event streams that `close` has to stop. At most one has started. */
  #events = new Set();
  /**
   * True while a call that returned a promise is in progress. The native part
   * starts such calls on another thread, possibly out of order.
   */
  #busy = false;
  /** A promise that settles when the guest has been freed; set by `close`. */
  #closing;
  #files;
  #contexts;

  constructor() {
    if (adopted === undefined)
      throw errors.invalid('a Sandbox cannot be constructed: use template.create');
    this.#native = adopted.native;
    this.#runtime = adopted.runtime;
    this.#bigints = adopted.bigints;
    this.#streamArgs = adopted.streams;
    this.#hasStreamHelper = adopted.hasStreamHelper;
  }

  /** Wraps a sandbox of the native part. Not part of the public API. */
  static adopt(native, { runtime, bigints, streams, hasStreamHelper }) {
    adopted = { native, runtime, bigints, streams, hasStreamHelper };
    try {
      return new Sandbox();
    } finally {
      adopted = undefined;
    }
  }

  /** Prepares the interpreter and runs the template's prelude. */
  async start(callOptions) {
    const { signal, limits } = options.call(callOptions);
    if (this.#busy) throw errors.notPending();
    await this.#settle(signal, (cancel) => this.#native.start(limits, cancel));
  }

  /** Runs source code at the top level. */
  async loadScript(code, callOptions) {
    checkCode(code);
    const { signal, limits } = options.call(callOptions, ['name']);
    const name = callOptions?.name ?? undefined;
    if (name !== undefined && typeof name !== 'string') {
      throw errors.invalid(`name must be a string, not ${errors.shown(name)}`);
    }
    await this.#settle(signal, (cancel) => this.#native.loadScript(code, name, limits, cancel));
  }

  /** Calls a function that a script defined and returns its result. */
  async run(name, args, kwargs, callOptions) {
    const { signal, limits } = options.call(callOptions);
    const call = prepare(name, args, kwargs);
    const run = (cancel) => this.#native.run(call.name, call.args, limits, cancel);
    if (call.streams === undefined) return this.#value(await this.#settle(signal, run));
    try {
      const outcome = await this.#settle(signal, async (cancel) => {
        const failure = await this.#openStreams(call.streams, limits, cancel);
        return failure ?? later(run(cancel));
      });
      return this.#value(outcome);
    } finally {
      this.#streamArgs.close(call.streams);
    }
  }

  /** Calls a function and returns the events of the call as they happen. */
  runStream(name, args, kwargs, callOptions) {
    const { signal, limits } = options.call(callOptions);
    const call = prepare(name, args, kwargs);
    const start = () => this.#native.runStream(call.name, call.args, limits);
    if (call.streams === undefined) return this.#follow(signal, start);
    const cancel = new (native.addon().Cancel)();
    return this.#follow(signal, start, {
      prepare: () => this.#openStreams(call.streams, limits, cancel),
      stop: () => {
        cancel.cancel();
        this.#streamArgs.close(call.streams);
      },
    });
  }

  /** Runs source code and returns the value of its last expression. */
  async evaluate(code, callOptions) {
    checkCode(code);
    const { signal, limits } = options.call(callOptions);
    const evaluate = (cancel) => this.#native.evaluate(code, limits, cancel);
    return this.#value(await this.#settle(signal, evaluate));
  }

  /** Does the same as `evaluate` and returns the events as they happen. */
  evaluateStream(code, callOptions) {
    checkCode(code);
    const { signal, limits } = options.call(callOptions);
    return this.#follow(signal, () => this.#native.evaluateStream(code, limits));
  }

  /** The files of the sandbox. */
  get files() {
    this.#files ??= Files.adopt(this.#native);
    return this.#files;
  }

  /** The contexts of the sandbox, in which `runCode` runs code. */
  get contexts() {
    this.#contexts ??= Contexts.adopt({
      native: this.#native,
      runtime: this.#runtime,
      // As every operation: refused if the sandbox is closed or busy.
      operate: (start) => this.#copy(start),
    });
    return this.#contexts;
  }

  /** Runs code as in a notebook, and returns what it shows. */
  async runCode(code, codeOptions) {
    checkCode(code);
    const { signal, limits, code: where, listeners } = options.code(codeOptions);
    const builder = new ExecutionBuilder();
    let raised;
    const events = this.#follow(signal, () => this.#native.runCode(code, where, limits));
    for await (const event of events) {
      if (event.type === 'error') throw raised === undefined ? event.error : raised.error;
      const [kind, value] = builder.add(event.data);
      const listener = listeners[kind];
      if (typeof listener !== 'function' || raised !== undefined) continue;
      try {
        await listener(value);
      } catch (error) {
        // The code is interrupted, so that the sandbox remains usable.
        raised = { error };
        this.interrupt();
      }
    }
    if (raised !== undefined) throw raised.error;
    return builder.execution();
  }

  /** Interrupts the code that `runCode` runs, and reports whether there is any. */
  interrupt() {
    return this.#native.interrupt();
  }

  /** Shuts the interpreter down in order, as at process exit, and closes the sandbox. */
  async finish(callOptions) {
    const { signal, limits } = options.call(callOptions);
    await this.#settle(signal, (cancel) => this.#native.finish(limits, cancel));
  }

  /** Does the same as `finish` and returns the events as they happen. */
  finishStream(callOptions) {
    const { signal, limits } = options.call(callOptions);
    return this.#follow(signal, () => this.#native.finishStream(limits));
  }

  /** Takes a snapshot of the interpreter; the sandbox remains usable. */
  async snapshot() {
    return Snapshot.adopt(await this.#copy(() => this.#native.snapshot()), this.#hasStreamHelper);
  }

  /**
   * Creates independent sandboxes that continue from this one's state, with its
   * limits, mounts, environment and handlers. They are started.
   */
  async fork(count = 1) {
    if (!Number.isInteger(count) || count < 0 || count > 0xffffffff) {
      throw errors.invalid(
        `count must be an integer from 0 to 4294967295, not ${errors.shown(count)}`,
      );
    }
    const children = await this.#copy(() => this.#native.fork(count));
    const parts = {
      runtime: this.#runtime,
      bigints: this.#bigints,
      streams: this.#streamArgs,
      hasStreamHelper: this.#hasStreamHelper,
    };
    return children.map((child) => Sandbox.adopt(child, parts));
  }

  /** Stops the running call and frees the guest. */
  close() {
    if (this.#closing !== undefined) return;
    this.#closing = this.#native.close();
    for (const events of this.#events) events.stop();
  }

  /** Does the same as `close`; resolves when the guest has been freed. */
  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    this.close();
    await this.#closing;
  }

  async #copy(start) {
    this.#ensureReady();
    this.#busy = true;
    try {
      const copied = await start();
      if (copied?.code !== undefined) throw errors.fromFailure(copied);
      return copied;
    } finally {
      this.#busy = false;
    }
  }

  /** Throws if the sandbox is closed or busy. */
  #ensureReady() {
    if (this.#closing !== undefined) throw errors.closed('sandbox');
    if (this.#busy) throw errors.busy();
  }

  #value(text) {
    return fromJson(text, this.#bigints);
  }

  /**
   * Prepares the guest for stream arguments and opens them. Returns the failure if the
   * guest cannot be prepared.
   */
  async #openStreams(streams, limits, cancel) {
    if (!this.#hasStreamHelper) {
      const { source, file } = native.addon().streamHelper(this.#runtime);
      const loaded = await this.#native.loadScript(source, file, limits, cancel);
      if (typeof loaded !== 'string') return loaded;
      this.#hasStreamHelper = true;
    }
    this.#streamArgs.open(streams, this.#native.maxValueSize);
    return undefined;
  }

  /**
   * Returns the events of a call. `preparation` has a function that is awaited before
   * the call, and one that is called when it stops.
   */
  #follow(signal, start, preparation) {
    const begin = () => {
      const stream = start();
      if (stream.code !== undefined) throw errors.fromFailure(stream);
      return stream;
    };
    const prepareAndBegin = async () => {
      this.#busy = true;
      try {
        const failure = await preparation.prepare();
        if (this.#closing !== undefined) throw errors.closed('sandbox');
        if (failure !== undefined) throw errors.fromFailure(failure);
        return begin();
      } finally {
        this.#busy = false;
      }
    };
    const open = () => {
      this.#ensureReady();
      return preparation === undefined ? begin() : prepareAndBegin();
    };
    return new Events({ open, stop: preparation?.stop }, signal, this.#bigints, this.#events);
  }

  /** Waits for a call, and stops it when its signal is aborted. */
  async #settle(signal, start) {
    this.#ensureReady();
    if (signal?.aborted) throw errors.aborted(signal);
    this.#busy = true;
    try {
      if (signal === undefined) return this.#result(await later(start(undefined)));
      const cancel = new (native.addon().Cancel)();
      const stop = () => cancel.cancel();
      signal.addEventListener('abort', stop, { once: true });
      try {
        return this.#result(await later(start(cancel)), signal);
      } finally {
        signal.removeEventListener('abort', stop);
      }
    } finally {
      this.#busy = false;
    }
  }

  #result(outcome, signal) {
    // A handler may have closed the sandbox just as the call ended. A closed
    // sandbox returns no more results.
    if (this.#closing !== undefined) throw errors.closed('sandbox');
    if (typeof outcome === 'string') return outcome;
    throw outcome.code === 'aborted' ? errors.aborted(signal) : errors.fromFailure(outcome);
  }
}

/**
 * Awaits what the native part returned: a promise, or the outcome of a quick call.
 * The latter is delivered in another turn of the event loop, because a sequence of
 * such calls would otherwise starve everything else on the loop.
 */
async function later(outcome) {
  if (typeof outcome.then === 'function') return outcome;
  await new Promise(setImmediate);
  return outcome;
}

function prepare(name, args, kwargs) {
  if (typeof name !== 'string') {
    throw errors.invalid(`the name of a function must be a string, not ${errors.shown(name)}`);
  }
  return encode(name, args, kwargs);
}

function checkCode(code) {
  if (typeof code !== 'string') {
    throw errors.invalid(`the code of a script must be a string, not ${errors.shown(code)}`);
  }
}

module.exports = { Sandbox };
