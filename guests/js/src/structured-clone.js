// `structuredClone` for values with Blobs and Files in them, which the engine takes
// for objects of a script's own class.

import { apply, create, define, getPrototypeOf, isArray, keys, objectTag, PlainObject, safeMap, uncurry } from './intrinsics.js';

const { Array, DOMException, Map, Set } = globalThis;
const engineClone = globalThis.structuredClone;
const eachOfMap = uncurry(Map.prototype.forEach);
const eachOfSet = uncurry(Set.prototype.forEach);
const setInMap = uncurry(Map.prototype.set);
const addToSet = uncurry(Set.prototype.add);
const hasInMap = uncurry(Map.prototype.has);
const hasInSet = uncurry(Set.prototype.has);

/**
 * Whether a script can have what the engine does not know: until then its own way
 * is right, and the fast one. `blob` gives the copy of a Blob, or undefined.
 */
export const cloning = { needed: false, blob: undefined, isForm: undefined };

function structuredClone(value, options = undefined) {
  if (!cloning.needed || !holdsOurs(value, safeMap())) {
    return apply(engineClone, undefined, arguments.length > 1 ? [value, options] : [value]);
  }
  const transfer = options?.transfer;
  if (transfer !== undefined && transfer.length > 0) {
    throw new DOMException('a value with Blobs in it cannot be cloned with a transfer list', 'DataCloneError');
  }
  return cloned(value, safeMap());
}

const isObject = (value) => typeof value === 'object' && value !== null;

/** What a value consists of: a list, a Map, a Set, a plain object, or something whole. */
function shapeOf(value) {
  if (isArray(value)) return 'list';
  if (takes(hasInMap, value)) return 'map';
  if (takes(hasInSet, value)) return 'set';
  const prototype = getPrototypeOf(value);
  return prototype === PlainObject || prototype === null ? 'object' : 'whole';
}

/** Whether a method takes a value for its receiver. */
function takes(has, value) {
  try {
    has(value, undefined);
    return true;
  } catch {
    return false;
  }
}

function holdsOurs(value, seen) {
  if (!isObject(value) || seen.has(value)) return false;
  if (cloning.blob(value) !== undefined) return true;
  if (cloning.isForm(value)) throw new DOMException('a FormData cannot be cloned', 'DataCloneError');
  seen.set(value, true);
  let found = false;
  const look = (part) => {
    found ||= holdsOurs(part, seen);
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
  // Of a class of the script's own only the fields are cloned, as the standard says.
  const plain = shape === 'object' || (shape === 'whole' && objectTag(value) === '[object Object]');
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
    for (let i = 0; i < names.length; i++) define(copy, names[i], cloned(value[names[i]], copies), true);
  }
  return copy;
}

export function installStructuredClone(global) {
  define(global, 'structuredClone', structuredClone, true);
}
