// What Web IDL says of arguments and of classes.

import {
  define,
  defineProperty,
  floor,
  getOwnPropertyDescriptor,
  SafeNumber,
  SafeTypeError,
  toStringTag,
  uncurry,
} from './intrinsics.js';

const isWellFormed = uncurry(String.prototype.isWellFormed);
const toWellFormed = uncurry(String.prototype.toWellFormed);

/** A text without halves of surrogate pairs: a `USVString`. */
export function wellFormed(text) {
  return isWellFormed(text) ? text : toWellFormed(text);
}

/** A whole number, and 0 for what is none: a `long long`. */
export function whole(value) {
  const number = SafeNumber(value);
  if (number !== number || number === Infinity || number === -Infinity) return 0;
  return number < 0 ? -floor(-number) : floor(number);
}

/** The options of a constructor: a dictionary. */
export function dictionary(options, name) {
  if (options === undefined || options === null) return { __proto__: null };
  if (typeof options !== 'object' && typeof options !== 'function') {
    throw new SafeTypeError(`${name}: the options are no object`);
  }
  return options;
}

/** Puts a class of a web standard in the place of the engine's. */
export function install(global, Class, members) {
  for (const name of members) {
    const member = getOwnPropertyDescriptor(Class.prototype, name);
    defineProperty(Class.prototype, name, { __proto__: null, ...member, enumerable: true });
  }
  defineProperty(Class.prototype, toStringTag, { __proto__: null, value: Class.name, configurable: true });
  define(global, Class.name, Class, false);
}
