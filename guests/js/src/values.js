// Converts values to and from the JSON texts that are passed between host and guest.
// `JSON.stringify` alone would silently turn NaN into null and drop functions; here
// they are rejected with an error message that contains the path.

import {
  apply,
  asyncIterator,
  getPrototypeOf,
  isArray,
  isFiniteNumber,
  isInteger,
  isSafeInteger,
  iterator,
  join,
  keys,
  objectTag,
  parse,
  PlainObject,
  regExpExec,
  SafeBigInt,
  SafeRangeError,
  SafeString,
  SafeTypeError,
  string,
  stringify,
  uncurry,
} from './intrinsics.js';
import { ofKind } from './kinds.js';

const encoder = new TextEncoder();
const encode = TextEncoder.prototype.encode;

const bigIntOf = uncurry(BigInt.prototype.valueOf);

let maxSize = Infinity;

/** Sets the maximum length of a JSON text that is sent to the host, in bytes. */
export function limitValues(bytes) {
  maxSize = bytes;
}

/** Returns the maximum length of a JSON text that is sent to the host, in bytes. */
export function maxValueSize() {
  return maxSize;
}

/** Returns the JSON text of `value`; `undefined` becomes null. */
export function toJson(value) {
  const text = jsonText(value);
  if (text.length * 3 > maxSize) checkSize(text);
  return text;
}

function checkSize(text) {
  // A UTF-16 unit takes between one and three bytes in UTF-8.
  const bytes = text.length > maxSize ? text.length : apply(encode, encoder, [text]).length;
  if (bytes > maxSize) {
    const text = `the value's JSON text has ${bytes} bytes; ${maxSize} are allowed`;
    throw ofKind('size', new SafeRangeError(text));
  }
}

function jsonText(value) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return stringify(value);
    case 'undefined':
      return 'null';
    case 'number':
      if (isFiniteNumber(value)) return stringify(value);
      break;
    case 'object': {
      if (value === null) return 'null';
      let text;
      try {
        text = stringify(value);
      } catch {
        // A cycle, a BigInt, or an error of a `toJSON`: `write` handles it.
        break;
      }
      if (text === undefined) break;
      // Otherwise the text contains no object, and no array item became null.
      if (!string.includes(text, '{') && !string.includes(text, 'null')) return text;
      if (isClean(value)) return text;
    }
  }
  return write(value, '', ['$'], []);
}

/**
 * Returns whether `JSON.stringify` loses nothing of `value`, which is acyclic. It may
 * return false in other cases, too: `write` handles those.
 */
function isClean(value) {
  if (isArray(value)) {
    const length = value.length;
    for (let i = 0; i < length; i++) {
      if (!isCleanMember(value[i])) return false;
    }
    return true;
  }
  const prototype = getPrototypeOf(value);
  if (prototype !== PlainObject && prototype !== null) return false;
  if (typeof value.toJSON === 'function') return false;
  const names = keys(value);
  for (let i = 0; i < names.length; i++) {
    if (!isCleanMember(value[names[i]])) return false;
  }
  return true;
}

function isCleanMember(value) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'undefined':
      return true;
    case 'number':
      return value - value === 0;
    case 'object':
      return value === null || isClean(value);
  }
  return false;
}

// The maximum depth of values that `JSON.stringify` alone cannot convert.
const MAX_DEPTH = 1000;

/** Converts a value to JSON member by member, and keeps the path of each. */
function write(value, key, path, parents) {
  if (typeof value === 'bigint') return SafeString(value);
  if (typeof value === 'object' && value !== null && typeof value.toJSON === 'function') {
    value = value.toJSON(key);
  }
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return stringify(value);
    case 'bigint':
      return SafeString(value);
    case 'undefined':
      return 'null';
    case 'number':
      if (isFiniteNumber(value)) return stringify(value);
      throw invalid(path, SafeString(value));
    case 'function':
      throw invalid(path, 'a function');
    case 'symbol':
      throw invalid(path, 'a symbol');
  }
  if (value === null) return 'null';
  for (let i = 0; i < parents.length; i++) {
    if (parents[i] === value) throw invalid(path, 'a circular reference');
  }
  const tag = string.slice(objectTag(value), 8, -1);
  if (!isArray(value)) {
    if (tag === 'BigInt') return SafeString(bigIntOf(value));
    if (tag === 'Number' || tag === 'String' || tag === 'Boolean')
      return jsonText(parse(stringify(value)));
    if (isOpaque(value, tag)) throw invalid(path, describe(tag));
  }
  const depth = parents.length;
  if (depth === MAX_DEPTH) {
    const text = `cannot send $ to the host: it is nested more than ${MAX_DEPTH} levels deep`;
    throw ofKind('value', new SafeTypeError(text));
  }
  parents[depth] = value;
  const parts = [];
  if (isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      path[depth + 1] = `[${i}]`;
      parts[i] = write(value[i], SafeString(i), path, parents);
    }
  } else {
    const names = keys(value);
    for (let i = 0; i < names.length; i++) {
      const member = value[names[i]];
      if (member === undefined) continue;
      path[depth + 1] = step(names[i]);
      parts[parts.length] = `${stringify(names[i])}:${write(member, names[i], path, parents)}`;
    }
  }
  parents.length = depth;
  path.length = depth + 1;
  const body = join(parts, ',');
  return isArray(value) ? `[${body}]` : `{${body}}`;
}

function invalid(path, what) {
  return ofKind(
    'value',
    new SafeTypeError(`cannot send ${join(path, '')} to the host: ${what} is not a JSON value`),
  );
}

function step(name) {
  return regExpExec(/^[A-Za-z_$][\w$]*$/, name) ? `.${name}` : `[${stringify(name)}]`;
}

const OPAQUE = new RegExp(
  '^(?:ArrayBuffer|Blob|DataView|Error|File|FormData|Headers|Promise|RegExp|Request|Response|' +
    'SharedArrayBuffer|Weak(?:Map|Ref|Set)|\\w+Stream)$',
);

/** Returns whether an object's members do not represent it, as for a Map or a Promise. */
function isOpaque(value, tag) {
  const prototype = getPrototypeOf(value);
  if (prototype === PlainObject || prototype === null) return false;
  return (
    typeof value[iterator] === 'function' ||
    typeof value[asyncIterator] === 'function' ||
    regExpExec(OPAQUE, tag) !== null
  );
}

function describe(tag) {
  if (tag === 'Promise') return 'a Promise (is an `await` missing?)';
  const article = regExpExec(/^[AEIO]/, tag) ? 'an' : 'a';
  return tag === 'Object' ? 'an iterable' : `${article} ${tag}`;
}

/**
 * Returns the value of a JSON text from the host. An integer that a number cannot
 * represent becomes a BigInt, so that no digit is lost.
 */
export function fromJson(text) {
  if (text.length < 16 || regExpExec(LONG_NUMBER, text) === null) return parse(text);
  return parse(text, exactInteger);
}

// Sixteen digits. In this engine this is ten times as fast as `\d{16}`.
const LONG_NUMBER = /\d\d\d\d\d\d\d\d\d\d\d\d\d\d\d\d/;

function exactInteger(name, value, context) {
  if (!isInteger(value) || isSafeInteger(value)) return value;
  return regExpExec(/^-?\d+$/, context.source) ? SafeBigInt(context.source) : value;
}
