'use strict';

// Converts values for the guest to JSON texts and back.
//
// `JSON.stringify` silently turns many values into `null`, `{}` or nothing. A value
// that a guest would not receive unchanged is rejected here with its path.

const { invalid } = require('./errors');

// Marks a big integer in a JSON text. It is random, so that no value can contain it.
const MARK = `isola-integer-${require('node:crypto').randomUUID()}:`;
const MARKED = new RegExp(`"${MARK}(-?[0-9]+)"`, 'g');

// Matches strings, too, so that digits inside them are skipped.
const TOKENS = /"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/g;

/**
 * Returns the JSON text of a value.
 *
 * @param {unknown} value
 * @param {string} what the name of the value in error messages
 */
function toJson(value, what) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return JSON.stringify(value);
    case 'number':
    case 'object': {
      if (value === null) return 'null';
      const found = { bigints: false };
      try {
        check(value, what, [], found);
      } catch (error) {
        // A deeply nested value overflows the stack.
        if (error instanceof RangeError) throw invalid(`${what} is nested too deeply`, error);
        throw error;
      }
      if (!found.bigints) return JSON.stringify(value);
      const replaced = (_, item) => (typeof item === 'bigint' ? MARK + item : item);
      return JSON.stringify(value, replaced).replace(MARKED, '$1');
    }
    case 'bigint':
      return String(value);
    default:
      throw refused(value, what);
  }
}

function check(value, place, above, found) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return;
    case 'bigint':
      found.bigints = true;
      return;
    case 'number':
      if (!Number.isFinite(value)) throw refused(value, place);
      return;
    case 'object':
      break;
    default:
      throw refused(value, place);
  }
  if (value === null) return;
  if (above.includes(value)) throw invalid(`${place} contains itself`);
  if (typeof value.toJSON === 'function' && !ArrayBuffer.isView(value)) return;
  if (Array.isArray(value)) {
    above.push(value);
    for (let index = 0; index < value.length; index += 1) {
      check(value[index], `${place}[${index}]`, above, found);
    }
  } else {
    if (isOpaque(value)) throw refused(value, place);
    above.push(value);
    for (const key of Object.keys(value)) {
      // Like `JSON.stringify`, skip properties that are `undefined`.
      if (value[key] !== undefined) check(value[key], `${place}.${key}`, above, found);
    }
  }
  above.pop();
}

// Reports whether `JSON.stringify` would turn the value into `{}` or an object of indexes.
function isOpaque(value) {
  return (
    ArrayBuffer.isView(value) ||
    value instanceof ArrayBuffer ||
    value instanceof Map ||
    value instanceof Set ||
    value instanceof Promise ||
    value instanceof RegExp ||
    value instanceof Error ||
    isStream(value)
  );
}

// Reports whether the value is an asynchronous iterable or a generator.
function isStream(value) {
  return typeof value[Symbol.asyncIterator] === 'function' || typeof value.next === 'function';
}

function refused(value, place) {
  const kind =
    value === undefined || typeof value === 'number'
      ? String(value)
      : typeof value === 'object'
        ? `a ${value.constructor?.name ?? 'special object'}`
        : `a ${typeof value}`;
  const hint =
    value === undefined
      ? ': use null'
      : value instanceof Promise
        ? ': await it first'
        : ArrayBuffer.isView(value) || value instanceof ArrayBuffer
          ? ': send bytes as base64 text or as an array of numbers'
          : typeof value === 'object' && isStream(value)
            ? ': to send its values while the guest runs, pass StreamArg.from(..)'
            : '';
  return invalid(`${place} is ${kind}, which is not a JSON value${hint}`);
}

/**
 * Returns the value of a JSON text.
 *
 * @param {string} text
 * @param {boolean} bigints whether integers beyond the safe range become `bigint`;
 *   otherwise they become the nearest number
 */
function fromJson(text, bigints) {
  if (!bigints) return JSON.parse(text);
  let found = false;
  const marked = text.replace(TOKENS, (token) => {
    if (token.length < 16 || !/^-?[0-9]+$/.test(token) || Number.isSafeInteger(Number(token))) {
      return token;
    }
    found = true;
    return `"${MARK}${token}"`;
  });
  if (!found) return JSON.parse(text);
  return JSON.parse(marked, (_, item) =>
    typeof item === 'string' && item.startsWith(MARK) ? BigInt(item.slice(MARK.length)) : item,
  );
}

module.exports = { toJson, fromJson };
