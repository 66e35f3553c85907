'use strict';

function same(actual, expected, what = '') {
  const show = (value) => (typeof value === 'string' ? JSON.stringify(value) : text(value));
  if (show(actual) !== show(expected))
    throw new Error(`${what}${show(actual)} instead of ${show(expected)}`);
}

function text(value) {
  if (Array.isArray(value)) return `[${value.map(text).join(', ')}]`;
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'bigint') return `${value}n`;
  if (Object.is(value, -0)) return '-0';
  if (typeof value === 'object' && value !== null) {
    return `{${Object.keys(value)
      .map((key) => `${key}: ${text(value[key])}`)
      .join(', ')}}`;
  }
  return String(value);
}

/** Checks that a function throws an error of this class, with this in its message. */
function throws(type, action, part = '') {
  let error;
  try {
    action();
  } catch (thrown) {
    error = thrown;
  }
  refused(error, type, part);
}

async function rejects(type, action, part = '') {
  let error;
  try {
    await action();
  } catch (thrown) {
    error = thrown;
  }
  refused(error, type, part);
}

function refused(error, type, part) {
  if (error === undefined) throw new Error('nothing was thrown');
  if (typeof type === 'string') same(error.name, type, `${error.message}: `);
  else if (!(error instanceof type)) throw new Error(`${error} is not a ${type.name}`);
  if (!String(error.message).includes(part))
    throw new Error(`${error.message} does not contain ${part}`);
}

async function runCases(...args) {
  const failures = [];
  const names = Object.keys(cases);
  for (const name of names) {
    try {
      await cases[name](...args);
    } catch (error) {
      failures.push(`${name}: ${error}\n${error?.stack ?? ''}`);
    }
  }
  return [names.length, failures];
}
