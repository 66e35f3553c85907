'use strict';

// Templates, and the contexts that build them.

const errors = require('./errors');
const native = require('./native');
const options = require('./options');
const { answerHostcalls } = require('./hostcalls');
const { answerRequests } = require('./http');
const { checkedRuntime, notFound, reporting } = require('./runtime');
const { Sandbox } = require('./sandbox');
const { Snapshot, checkedPath, partsOf } = require('./snapshot');
const { OpenStreams } = require('./stream-calls');

const KEY = Symbol('isola');

/** A context that builds templates until it is closed. */
class SandboxContext {
  #closed = false;

  /**
   * Finds a runtime, compiles it if necessary, and loads it.
   *
   * @param {string} runtime
   * @param {object} [config]
   */
  async buildTemplate(runtime, config = {}) {
    if (this.#closed) throw errors.closed('the context');
    checkedRuntime(runtime);
    const { native: given, onProgress } = options.template(config, native.shipped(runtime));
    const built = await native
      .addon()
      .buildTemplate({ runtime, ...given }, onProgress && reporting(onProgress));
    if (built.code !== undefined) throw notFound(built, runtime, given.sources);
    // The context may have been closed during the build; its template has no owner then.
    if (this.#closed) throw errors.closed('the context');
    return new SandboxTemplate(KEY, built);
  }

  /** Closes the context, which then builds nothing more. Its templates remain usable. */
  close() {
    this.#closed = true;
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    this.close();
  }
}

/** A compiled interpreter, from which sandboxes are created. */
class SandboxTemplate {
  #native;

  constructor(key, template) {
    if (key !== KEY)
      throw errors.invalid('a SandboxTemplate cannot be constructed: use buildTemplate');
    this.#native = template;
  }

  /**
   * Creates a sandbox that has not been started.
   *
   * @param {object} [config]
   */
  async create(config = {}) {
    return create(this.#native, config, false);
  }

  /**
   * Reads a snapshot that `snapshot.save` wrote.
   *
   * @param {string} path
   */
  async loadSnapshot(path) {
    const loaded = await this.#native.loadSnapshot(checkedPath(path));
    if (loaded.code !== undefined) throw errors.fromFailure(loaded);
    return Snapshot.adopt(loaded, false);
  }

  /**
   * Creates a started sandbox that continues from a snapshot or a snapshot file.
   *
   * @param {Snapshot | string} snapshot
   * @param {object} [config]
   */
  async restore(snapshot, config = {}) {
    const from = typeof snapshot === 'string' ? await this.loadSnapshot(snapshot) : snapshot;
    const found = partsOf(from);
    if (found === undefined) {
      throw errors.invalid(`snapshot must be a Snapshot or a path, not ${errors.shown(snapshot)}`);
    }
    if (from.runtime !== this.#native.runtime) {
      throw errors.invalid(
        `the snapshot is of the runtime ${from.runtime}, but the template is of ${this.#native.runtime}`,
      );
    }
    return create(found.native, config, found.hasStreamHelper);
  }
}

/** Creates a sandbox from the native part of a template or a snapshot. */
async function create(from, config, hasStreamHelper) {
  const { native: given, handlers, http, httpRequestBody, bigints } = options.sandbox(config);
  const streams = new OpenStreams();
  const created = await from.create(
    given,
    answerHostcalls(handlers, bigints, streams),
    http === false ? undefined : answerRequests(http, httpRequestBody),
  );
  if (created.code !== undefined) throw errors.fromFailure(created);
  return Sandbox.adopt(created, { runtime: from.runtime, bigints, streams, hasStreamHelper });
}

/** Builds a template in a context of its own. */
async function buildTemplate(runtime, config = {}) {
  return new SandboxContext().buildTemplate(runtime, config);
}

module.exports = { SandboxContext, SandboxTemplate, buildTemplate };
