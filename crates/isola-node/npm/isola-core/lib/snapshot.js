'use strict';

// Snapshots: copies of an interpreter's state.

const errors = require('./errors');

let adopted;
const parts = new WeakMap();

/** A copy of an interpreter's state: its imports, globals and generators. */
class Snapshot {
  #native;

  constructor() {
    if (adopted === undefined)
      throw errors.invalid('a Snapshot cannot be constructed: use sandbox.snapshot');
    this.#native = adopted.native;
    parts.set(this, adopted);
  }

  /**
   * Wraps a snapshot of the native part. `hasStreamHelper` says whether the guest has
   * the function that calls with stream arguments need. Not part of the public API.
   */
  static adopt(native, hasStreamHelper) {
    adopted = { native, hasStreamHelper };
    try {
      return new Snapshot();
    } finally {
      adopted = undefined;
    }
  }

  /** The name of the runtime, such as `"python"`. */
  get runtime() {
    return this.#native.runtime;
  }

  /** The size of the interpreter's memory, in bytes. */
  get memorySize() {
    return this.#native.memorySize;
  }

  /** The memory that the snapshot itself uses, in bytes. */
  get residentSize() {
    return this.#native.residentSize;
  }

  /** Writes the snapshot to a file atomically and returns the file's size. */
  async save(path) {
    const saved = await this.#native.save(checkedPath(path));
    if (typeof saved !== 'number') throw errors.fromFailure(saved);
    return saved;
  }
}

/** Returns `{ native, hasStreamHelper }` of a snapshot, or `undefined` for anything else. */
function partsOf(snapshot) {
  return parts.get(snapshot);
}

function checkedPath(path) {
  if (typeof path === 'string' && path !== '') return path;
  throw errors.invalid(`path must be a non-empty string, not ${errors.shown(path)}`);
}

module.exports = { Snapshot, checkedPath, partsOf };
