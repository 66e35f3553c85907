'use strict';

// Values on their way to the guest and back, as JSON texts.
//
// `JSON.stringify` turns much into `null`, `{}` or nothing without a word. What
// a guest would not get as it is, is refused here, with its place.

const { invalid } = require('./errors');

// Stands in texts where a big integer is. Nobody can guess it.
const MARK = `isola-integer-${require('node:crypto').randomUUID()}:`;
const MARKED = new RegExp(`"${MARK}(-?[0-9]+)"`, 'g');

// Strings are matched to be skipped: digits in them are no numbers.
const TOKENS = /"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/g;

/**
 * The JSON text of a value.
 *
 * @param {unknown} value
 * @param {string} what names the value in an error
 */
function toJson(value, what) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return JSON.stringify(value);
    case 'number':
    case 'object': {
      if (value === null) return 'null';
      const found = { integers: false };
      try {
        check(value, what, [], found);
      } catch (error) {
        // A value may be deeper than the stack.
        if (error instanceof RangeError) throw invalid(`${what} nests too deep`, error);
        throw error;
      }
      if (!found.integers) return JSON.stringify(value);
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
      found.integers = true;
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
      // As `JSON.stringify` has it, a property without a value is not there.
      if (value[key] !== undefined) check(value[key], `${place}.${key}`, above, found);
    }
  }
  above.pop();
}

// What would become `{}`, or an object of digits.
function isOpaque(value) {
  return (
    ArrayBuffer.isView(value) ||
    value instanceof ArrayBuffer ||
    value instanceof Map ||
    value instanceof Set ||
    value instanceof Promise ||
    value instanceof RegExp ||
    value instanceof Error
  );
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
          : '';
  return invalid(`${place} is ${kind}, which is not a JSON value${hint}`);
}

/**
 * The value of a JSON text.
 *
 * @param {string} text
 * @param {boolean} bigints whether integers that a number cannot hold become
 *   `bigint`; if not, they become the nearest number
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
