// Calls a function of a script and sends its results.

import * as host from 'isola:sandbox/host@0.1.0';
import {
  apply,
  asyncIterator,
  define,
  hasOwn,
  isArray,
  iterator,
  objectTag,
  SafeTypeError,
} from './intrinsics.js';
import { missing, namedValue } from './modules.js';
import { fromJson, toJson } from './values.js';

/**
 * The function that the host defines for calls with stream arguments. It gets the called
 * function itself in the place of its name, since no script can find the exports of modules.
 */
const STREAM_CALL = '__isola_call__';

/**
 * Calls the function and returns the JSON text of its result, or a promise of
 * it if the function has not finished.
 */
export function callFunction(name, args) {
  const list = parameters(args);
  if (name === STREAM_CALL) list[0] = lookUp(list[0]);
  const value = apply(lookUp(name), undefined, list);
  return isThenable(value) ? resolved(value) : result(value);
}

/** Returns a promise of the JSON text of what a promise resolves to. */
export function resolvedText(promise) {
  return resolved(promise);
}

function lookUp(name) {
  const value = namedValue(name);
  if (typeof value === 'function') return value;
  if (value === undefined && !hasOwn(globalThis, name)) throw missing(name);
  throw new SafeTypeError(`${name} is not a function`);
}

/** Returns the positional arguments in order, then one object with the named ones. */
function parameters(args) {
  const list = [];
  let options;
  for (let i = 0; i < args.length; i++) {
    const { name, value } = args[i];
    if (name === undefined) {
      list[list.length] = fromJson(value);
    } else {
      options ??= {};
      define(options, name, fromJson(value), true);
    }
  }
  if (options !== undefined) list[list.length] = options;
  return list;
}

function isThenable(value) {
  return (
    ((typeof value === 'object' && value !== null) || typeof value === 'function') &&
    typeof value.then === 'function'
  );
}

async function resolved(thenable) {
  return result(await thenable);
}

/** Returns the JSON text of a result; iterables are run, and their items sent. */
function result(value) {
  if (typeof value !== 'object' || value === null || isArray(value)) return toJson(value);
  if (typeof value[asyncIterator] === 'function') return drain(value);
  if (typeof value[iterator] === 'function' && objectTag(value) !== '[object String]')
    return streamed(value);
  return toJson(value);
}

function streamed(iterable) {
  const source = iterable[iterator]();
  const { next } = source;
  for (;;) {
    const step = apply(next, source, []);
    if (step.done) return toJson(step.value);
    emit(step.value, source);
  }
}

async function drain(iterable) {
  const source = iterable[asyncIterator]();
  const { next } = source;
  for (;;) {
    const step = await apply(next, source, []);
    if (step.done) return toJson(step.value);
    emit(step.value, source);
  }
}

function emit(value, source) {
  let json;
  try {
    json = toJson(value);
  } catch (error) {
    // Lets the generator clean up; its own error is ignored in favour of this one.
    try {
      source.return?.();
    } catch {}
    throw error;
  }
  host.emit(json);
}
