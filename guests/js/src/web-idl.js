// Conversions of arguments and definitions of classes by Web IDL.

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

/** Converts a text to a `USVString`, without lone surrogates. */
export function wellFormed(text) {
  return isWellFormed(text) ? text : toWellFormed(text);
}

/** Converts a value to a `long long`: an integer, or 0 if it is not a number. */
export function longLong(value) {
  const number = SafeNumber(value);
  if (number !== number || number === Infinity || number === -Infinity) return 0;
  return number < 0 ? -floor(-number) : floor(number);
}

/** Converts the options of a constructor to a dictionary. */
export function dictionary(options, name) {
  if (options === undefined || options === null) return { __proto__: null };
  if (typeof options !== 'object' && typeof options !== 'function') {
    throw new SafeTypeError(`${name}: the options must be an object`);
  }
  return options;
}

/** Replaces the engine's class of a web standard. */
export function install(global, Class, members) {
  for (const name of members) {
    const member = getOwnPropertyDescriptor(Class.prototype, name);
    defineProperty(Class.prototype, name, { __proto__: null, ...member, enumerable: true });
  }
  defineProperty(Class.prototype, toStringTag, {
    __proto__: null,
    value: Class.name,
    configurable: true,
  });
  define(global, Class.name, Class, false);
}
