'use strict';

// The files of a sandbox. The native operations do not wait: a promise is returned so that
// the interface is that of `node:fs/promises`.

const errors = require('./errors');

/** The largest time that a `Date` has, in milliseconds. A guest may set any time. */
const MAX_TIME = 8.64e15;

let adopted;

/** The files of a sandbox. */
class Files {
  #sandbox;
  #native;

  constructor() {
    if (adopted === undefined)
      throw errors.invalid('a Files object cannot be constructed: use sandbox.files');
    this.#sandbox = adopted;
  }

  /** Wraps the native part of a sandbox. Not part of the public API. */
  static adopt(sandbox) {
    adopted = sandbox;
    try {
      return new Files();
    } finally {
      adopted = undefined;
    }
  }

  /** Returns the content of a file. */
  async read(path) {
    return returned(this.#files().read(checked('path', path)));
  }

  /** Returns the content of a text file, in UTF-8. */
  async readText(path) {
    return returned(this.#files().read(checked('path', path))).toString('utf8');
  }

  /** Writes a file: creates it and its missing directories, or replaces its content. */
  async write(path, content) {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    if (!(bytes instanceof Uint8Array)) {
      throw errors.invalid(
        `content must be a string or a Uint8Array, not ${errors.shown(content)}`,
      );
    }
    returned(this.#files().write(checked('path', path), bytes));
  }

  /** Returns the entries of a directory, sorted by name. */
  async list(path = '.') {
    return returned(this.#files().list(checked('path', path))).map(({ name, ...stat }) => ({
      name,
      ...described(stat),
    }));
  }

  /** Returns the metadata of a file. Symbolic links are followed. */
  async stat(path) {
    return described(returned(this.#files().stat(checked('path', path))));
  }

  /** Reports whether a file or directory exists. */
  async exists(path) {
    return this.#files().exists(checked('path', path));
  }

  /** Creates a directory and its missing parents. */
  async makeDir(path) {
    returned(this.#files().makeDir(checked('path', path)));
  }

  /** Removes a file, or a directory with everything in it. */
  async remove(path) {
    returned(this.#files().remove(checked('path', path)));
  }

  /** Moves a file or directory. */
  async rename(from, to) {
    returned(this.#files().rename(checked('from', from), checked('to', to)));
  }

  #files() {
    this.#native ??= returned(this.#sandbox.files());
    return this.#native;
  }
}

/** Returns what the native part returned, or throws its failure. */
function returned(outcome) {
  if (outcome?.code !== undefined) throw errors.fromFailure(outcome);
  return outcome;
}

function described({ kind, size, mode, modifiedMs }) {
  const time = Math.min(Math.max(modifiedMs, -MAX_TIME), MAX_TIME);
  return { kind, size, mode, modified: new Date(time) };
}

function checked(name, path) {
  if (typeof path === 'string') return path;
  throw errors.invalid(`${name} must be a string, not ${errors.shown(path)}`);
}

module.exports = { Files };
