'use strict';

// Snapshots: an interpreter as it was at one moment.

const errors = require('./errors');
const { shown } = require('./args');

let adopted;
const natives = new WeakMap();

/** A running interpreter as it was: its imports, globals and generators. */
class Snapshot {
  #native;

  constructor() {
    if (adopted === undefined) throw errors.invalid('a Snapshot comes from sandbox.snapshot');
    this.#native = adopted;
    natives.set(this, adopted);
  }

  /** Makes an object of what the native part created. Not for users. */
  static adopt(snapshot) {
    adopted = snapshot;
    try {
      return new Snapshot();
    } finally {
      adopted = undefined;
    }
  }

  /** `"python"` or `"js"`. */
  get runtime() {
    return this.#native.runtime;
  }

  /** The size of the interpreter's memory, in bytes. */
  get memorySize() {
    return this.#native.memorySize;
  }

  /** What the snapshot itself takes in memory, in bytes. */
  get residentSize() {
    return this.#native.residentSize;
  }

  /** Writes it to a file, whole or not at all; gives the file's size. */
  async save(path) {
    const saved = await this.#native.save(checkedPath(path));
    if (typeof saved !== 'number') throw errors.fromFailure(saved);
    return saved;
  }
}

/** The native part of a snapshot; `undefined` for anything else. */
function nativeOf(snapshot) {
  return natives.get(snapshot);
}

function checkedPath(path) {
  if (typeof path === 'string' && path !== '') return path;
  throw errors.invalid(`path should be a string, and not ${shown(path)}`);
}

module.exports = { Snapshot, checkedPath, nativeOf };
