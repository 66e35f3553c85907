'use strict';

// The arguments of a call.

const { randomUUID } = require('node:crypto');
const { invalid, shown } = require('./errors');
const { toJson } = require('./json');
const { sourceOf } = require('./stream-arg');
const { wrap } = require('./stream-calls');

/** An argument with a name, for the list of arguments of a call. */
class Arg {
  /**
   * @param {unknown} value
   * @param {string | null} [name]
   */
  constructor(value, name = null) {
    if (name !== null && typeof name !== 'string') {
      throw invalid(`the name of an argument must be a string, not ${shown(name)}`);
    }
    this.value = value;
    this.name = name;
    Object.freeze(this);
  }
}

/**
 * Encodes a call for the native part: the name of the function, and its arguments as
 * JSON texts with their names, if any has one. `streams` are the sources of the
 * stream arguments by token, if there are any.
 *
 * @param {string} name
 * @param {unknown} args
 * @param {unknown} kwargs
 */
function encode(name, args, kwargs) {
  if (args === undefined || args === null) args = [];
  if (!Array.isArray(args)) {
    throw invalid(
      `the arguments of a call must be an array, not ${shown(args)}: wrap a single one, as in [value]`,
    );
  }
  const values = [];
  const names = [];
  let streams;
  let named = false;
  const add = (value, name, what) => {
    const source = sourceOf(value);
    if (source === undefined) values.push(toJson(value, what));
    else
      values.push(JSON.stringify((streams ??= new StreamList()).add(source, values.length, what)));
    names.push(name);
    named ||= name !== null;
  };
  args.forEach((argument, index) => {
    const value = argument instanceof Arg ? argument.value : argument;
    const name = (argument instanceof Arg ? argument.name : null) ?? sourceOf(value)?.name ?? null;
    add(value, name, name === null ? `argument ${index}` : `argument "${name}"`);
  });
  if (kwargs !== undefined && kwargs !== null) {
    if (
      typeof kwargs !== 'object' ||
      Array.isArray(kwargs) ||
      kwargs instanceof Arg ||
      sourceOf(kwargs)
    ) {
      throw invalid(`named arguments must be an object, not ${shown(kwargs)}`);
    }
    for (const [name, value] of Object.entries(kwargs)) {
      const own = sourceOf(value)?.name ?? name;
      if (own !== name)
        throw invalid(`argument "${name}" is a StreamArg with another name, "${own}"`);
      add(value, name, `argument "${name}"`);
    }
  }
  if (streams === undefined) return { name, args: named ? { values, names } : { values } };
  const wrapped = wrap(name, { values, names }, streams.positions);
  // Every argument is valid: the call is going to use the streams.
  return { ...wrapped, streams: streams.use() };
}

/** The stream arguments of a call. */
class StreamList {
  positions = new Set();
  #byToken = new Map();

  /** Adds a stream and returns its token. */
  add(source, position, what) {
    if (source.isUsed || [...this.#byToken.values()].includes(source)) {
      throw invalid(`${what}: a StreamArg can be used only once: create one for each call`);
    }
    const token = randomUUID();
    this.positions.add(position);
    this.#byToken.set(token, source);
    return token;
  }

  /** Marks the streams as used and returns them by token. */
  use() {
    for (const source of this.#byToken.values()) source.isUsed = true;
    return this.#byToken;
  }
}

module.exports = { Arg, encode };
