// `structuredClone` for values that contain Blobs and Files, which the engine treats as
// objects of a script's own class.

import {
  apply,
  create,
  define,
  getPrototypeOf,
  isArray,
  keys,
  objectTag,
  PlainObject,
  safeMap,
  uncurry,
} from './intrinsics.js';

const { Array, DOMException, Map, Set } = globalThis;
const engineClone = globalThis.structuredClone;
const eachOfMap = uncurry(Map.prototype.forEach);
const eachOfSet = uncurry(Set.prototype.forEach);
const setInMap = uncurry(Map.prototype.set);
const addToSet = uncurry(Set.prototype.add);
const hasInMap = uncurry(Map.prototype.has);
const hasInSet = uncurry(Set.prototype.has);

/**
 * The state of cloning. `needed` is set once a script may have a value that the engine
 * cannot clone; until then the engine's faster function is used. `blob` returns the
 * copy of a Blob, or undefined.
 */
export const cloning = { needed: false, blob: undefined, isForm: undefined };

function structuredClone(value, options = undefined) {
  if (!cloning.needed || !containsBlob(value, safeMap())) {
    return apply(engineClone, undefined, arguments.length > 1 ? [value, options] : [value]);
  }
  const transfer = options?.transfer;
  if (transfer !== undefined && transfer.length > 0) {
    throw new DOMException(
      'a value that contains Blobs cannot be cloned with a transfer list',
      'DataCloneError',
    );
  }
  return cloned(value, safeMap());
}

const isObject = (value) => typeof value === 'object' && value !== null;

/** Returns the structure of a value: a list, a Map, a Set, a plain object, or opaque. */
function shapeOf(value) {
  if (isArray(value)) return 'list';
  if (accepts(hasInMap, value)) return 'map';
  if (accepts(hasInSet, value)) return 'set';
  const prototype = getPrototypeOf(value);
  return prototype === PlainObject || prototype === null ? 'object' : 'opaque';
}

/** Returns whether a method accepts a value as its receiver. */
function accepts(has, value) {
  try {
    has(value, undefined);
    return true;
  } catch {
    return false;
  }
}

function containsBlob(value, seen) {
  if (!isObject(value) || seen.has(value)) return false;
  if (cloning.blob(value) !== undefined) return true;
  if (cloning.isForm(value))
    throw new DOMException('a FormData cannot be cloned', 'DataCloneError');
  seen.set(value, true);
  let found = false;
  const look = (part) => {
    found ||= containsBlob(part, seen);
  };
  const shape = shapeOf(value);
  if (shape === 'map') {
    eachOfMap(value, (item, key) => {
      look(key);
      look(item);
    });
  } else if (shape === 'set') {
    eachOfSet(value, look);
  } else {
    const names = keys(value);
    for (let i = 0; i < names.length && !found; i++) look(value[names[i]]);
  }
  return found;
}

function cloned(value, copies) {
  if (!isObject(value)) return engineClone(value);
  const known = copies.get(value);
  if (known !== undefined) return known;
  const blob = cloning.blob(value);
  const shape = blob === undefined ? shapeOf(value) : 'blob';
  // For a class of the script only the fields are cloned, as the standard requires.
  const plain =
    shape === 'object' || (shape === 'opaque' && objectTag(value) === '[object Object]');
  let copy;
  if (shape === 'blob') copy = blob;
  else if (shape === 'list') copy = new Array(value.length);
  else if (shape === 'map') copy = new Map();
  else if (shape === 'set') copy = new Set();
  else if (plain) copy = create(PlainObject);
  else copy = engineClone(value);
  copies.set(value, copy);
  if (shape === 'map') {
    eachOfMap(value, (item, key) => setInMap(copy, cloned(key, copies), cloned(item, copies)));
  } else if (shape === 'set') {
    eachOfSet(value, (item) => addToSet(copy, cloned(item, copies)));
  } else if (shape === 'list' || plain) {
    const names = keys(value);
    for (let i = 0; i < names.length; i++)
      define(copy, names[i], cloned(value[names[i]], copies), true);
  }
  return copy;
}

export function installStructuredClone(global) {
  define(global, 'structuredClone', structuredClone, true);
}
