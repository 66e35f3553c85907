// The built-ins that the runner uses, captured while the guest is built, so that a
// script may replace any global or method without affecting the runner.

const { apply, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;
const { create, defineProperty, freeze, hasOwn, isExtensible, keys, seal } = Object;
const { isArray } = Array;
const { parse, stringify } = JSON;

/** Turns a method into a function that takes its receiver first. */
export const uncurry = Function.prototype.bind.bind(Function.prototype.call);

/** Creates a `Map` with own methods, which scripts cannot replace. */
export function safeMap() {
  const map = new Map();
  for (const name of ['get', 'set', 'has', 'delete', 'clear', 'forEach']) {
    defineProperty(map, name, { value: Map.prototype[name] });
  }
  defineProperty(map, 'size', getOwnPropertyDescriptor(Map.prototype, 'size'));
  return map;
}

export const PlainObject = Object.prototype;
export const SafePromise = Promise;
export const SafeError = Error;
export const SafeTypeError = TypeError;
export const SafeRangeError = RangeError;
export const SafeReferenceError = ReferenceError;
export const SafeSyntaxError = SyntaxError;
export const SafeBigInt = BigInt;
export const SafeSet = Set;
export const SafeString = String;
export const SafeNumber = Number;
export const { asyncIterator, iterator, toStringTag } = Symbol;
export const { isFinite: isFiniteNumber, isInteger, isSafeInteger } = Number;
export const { floor } = Math;
export const evaluate = globalThis.eval;
export const now = uncurry(performance.now).bind(null, performance);

export const rejected = Promise.reject.bind(Promise);
export const microtask = globalThis.queueMicrotask;

/**
 * Runs one of two callbacks when a promise has settled. (`then` would use the
 * promise's constructor, which scripts can replace.)
 */
export async function whenSettled(promise, onValue, onError) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    onError(error);
    return;
  }
  onValue(value);
}

/** Defines a property, unaffected by properties that scripts add to `Object.prototype`. */
export function define(object, name, value, enumerable) {
  defineProperty(object, name, {
    __proto__: null,
    value,
    writable: true,
    configurable: true,
    enumerable,
  });
}

const { charCodeAt, endsWith, includes, indexOf, padEnd, repeat, replace, replaceAll } =
  String.prototype;
const { lastIndexOf, slice, split, startsWith, toLowerCase, toUpperCase } = String.prototype;
export const string = {
  charCodeAt: uncurry(charCodeAt),
  endsWith: uncurry(endsWith),
  includes: uncurry(includes),
  indexOf: uncurry(indexOf),
  lastIndexOf: uncurry(lastIndexOf),
  padEnd: uncurry(padEnd),
  repeat: uncurry(repeat),
  replace: uncurry(replace),
  replaceAll: uncurry(replaceAll),
  slice: uncurry(slice),
  split: uncurry(split),
  startsWith: uncurry(startsWith),
  toLowerCase: uncurry(toLowerCase),
  toUpperCase: uncurry(toUpperCase),
};
export const join = uncurry(Array.prototype.join);
export const objectTag = uncurry(Object.prototype.toString);
export const regExpExec = uncurry(RegExp.prototype.exec);

export {
  apply,
  create,
  defineProperty,
  freeze,
  getOwnPropertyDescriptor,
  getPrototypeOf,
  hasOwn,
  isArray,
  isExtensible,
  keys,
  ownKeys,
  parse,
  seal,
  stringify,
};
