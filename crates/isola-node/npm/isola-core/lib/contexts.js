'use strict';

// The contexts of a sandbox, in which `sandbox.runCode` runs code.

const errors = require('./errors');
const options = require('./options');
const { languageOf } = require('./runtime');

let adopted;

/** The contexts of a sandbox: interpreter states with their own globals. */
class Contexts {
  #native;
  #runtime;
  #operate;

  constructor() {
    if (adopted === undefined)
      throw errors.invalid('a Contexts object cannot be constructed: use sandbox.contexts');
    this.#native = adopted.native;
    this.#runtime = adopted.runtime;
    this.#operate = adopted.operate;
  }

  /**
   * Wraps the native part of a sandbox. `operate` runs an operation of the sandbox. Not
   * part of the public API.
   */
  static adopt(parts) {
    adopted = parts;
    try {
      return new Contexts();
    } finally {
      adopted = undefined;
    }
  }

  /** Creates a context. */
  async create(contextOptions) {
    const { language, cwd } = options.context(contextOptions);
    const own = languageOf(this.#runtime);
    const isOwn = language === own || (own === 'javascript' && language === 'js');
    if (language !== undefined && !isOwn) {
      throw errors.invalid(
        `this sandbox runs ${own}, not \`${language}\`: create a sandbox of another runtime`,
      );
    }
    return this.#operate(() => this.#native.createContext(cwd));
  }

  /** Returns the contexts. */
  async list() {
    return this.#operate(() => this.#native.contexts());
  }

  /** Removes everything that code has defined in a context, and counts from 1 again. */
  async restart(context) {
    const id = options.contextId(context);
    await this.#operate(() => this.#native.restartContext(id));
    return (await this.list()).find((each) => each.id === id);
  }

  /** Interrupts the code of a context, and reports whether any runs. */
  async interrupt(context) {
    return this.#native.interrupt(options.contextId(context));
  }

  /** Removes a context. The context `default` cannot be removed. */
  async remove(context) {
    const id = options.contextId(context);
    await this.#operate(() => this.#native.removeContext(id));
  }
}

module.exports = { Contexts };
