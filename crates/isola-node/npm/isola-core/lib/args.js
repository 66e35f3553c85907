'use strict';

// The arguments of a call.

const { invalid } = require('./errors');
const { toJson } = require('./json');

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
 * Encodes arguments for the native part: JSON texts, and their names if any has one.
 *
 * @param {unknown} args
 * @param {unknown} kwargs
 */
function encode(args, kwargs) {
  if (args === undefined || args === null) args = [];
  if (!Array.isArray(args)) {
    throw invalid(
      `the arguments of a call must be an array, not ${shown(args)}: wrap a single one, as in [value]`,
    );
  }
  const values = [];
  const names = [];
  let named = false;
  const add = (value, name, what) => {
    values.push(toJson(value, what));
    names.push(name);
    named ||= name !== null;
  };
  args.forEach((argument, index) => {
    if (argument instanceof Arg) {
      const what = argument.name === null ? `argument ${index}` : `argument "${argument.name}"`;
      add(argument.value, argument.name, what);
    } else {
      add(argument, null, `argument ${index}`);
    }
  });
  if (kwargs !== undefined && kwargs !== null) {
    if (typeof kwargs !== 'object' || Array.isArray(kwargs) || kwargs instanceof Arg) {
      throw invalid(`named arguments must be an object, not ${shown(kwargs)}`);
    }
    for (const [name, value] of Object.entries(kwargs)) add(value, name, `argument "${name}"`);
  }
  return named ? { values, names } : { values };
}

function shown(value) {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object') return 'an object';
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

module.exports = { Arg, encode, shown };
