// Runs the source of a cell: a script whose last expression has a value, and which may
// use `await` at its top level. What it declares is visible to later cells.
//
// A script is run by `eval`, which returns that value. A cell with `await` runs as the
// body of an async function, in which the last expression has to be found: the longest
// end of the source that the engine accepts as an expression, if it accepts the rest.

import {
  define,
  evaluate,
  isExtensible,
  join,
  regExpExec,
  SafeSyntaxError,
  string,
} from './intrinsics.js';
import { shiftFirstLine } from './failures.js';
import { withUnicodePatterns } from './patterns.js';
import { candidates, isFromParser, publish, runText } from './scripts.js';

const global = globalThis;
const AsyncFunction = (async () => {}).constructor;
const { Function } = global;

/** The number of positions at which the last expression of a cell with `await` may begin. */
const MAX_STARTS = 200;

/**
 * Runs a cell and returns the value of its last expression, or a promise of it. A cell
 * that imports or exports is run by `runModule` and has no value.
 */
export function runCell(source, label, runModule) {
  source = withUnicodePatterns(source);
  if (isObject(source)) source = `(${source}\n)`;
  const names = candidates(source);
  try {
    return runSync(source, names, label);
  } catch (error) {
    if (!(error instanceof SafeSyntaxError) || !isFromParser(error)) throw error;
    // Nothing of it has run, because the parser rejected it.
    if (string.includes(source, 'await') && accepts(AsyncFunction, source))
      return runAwaiting(source, label);
    if (regExpExec(/\b(?:import|export)\b/, source) !== null) return runModule(source, label);
    throw error;
  }
}

/** Returns whether a source that begins like a block is an object. */
function isObject(source) {
  return regExpExec(/^\s*\{/, source) !== null && accepts(Function, `return (${source}\n)`);
}

function accepts(Kind, body) {
  try {
    new Kind(body);
    return true;
  } catch {
    return false;
  }
}

function runSync(source, names, label) {
  const lines = string.split(source, '\n').length;
  if (names.length === 0 || !isExtensible(global)) return runText(source, label, lines);
  const receive = unused(source, '$isolaReceive');
  const list = unused(source, '$isolaNames');
  let bindings;
  define(global, receive, (made) => (bindings = made), false);
  try {
    // A declaration has no value of its own.
    return runText(`${source}\nconst ${list}=${receive}([${accessors(names)}]);`, label, lines);
  } catch (error) {
    if (!(error instanceof SafeSyntaxError) || error.lineNumber <= lines || !isFromParser(error))
      throw error;
    return runText(source, label, lines);
  } finally {
    delete global[receive];
    if (bindings !== undefined) publish(names, bindings);
  }
}

/** Runs a cell with `await` at its top level. */
export async function runAwaiting(source, label) {
  const names = candidates(source);
  const receive = unused(source, '$isolaReceive');
  const at = lastExpression(source);
  const before = `(async function(${receive}){${receive}([${accessors(names)}]);`;
  const body =
    at < 0
      ? source
      : `${string.slice(source, 0, at)};return (${withoutEnd(string.slice(source, at))}\n)`;
  const make = evaluate(`${before}${body}\n})\n//# sourceURL=${label}`);
  shiftFirstLine(label, before.length);
  let bindings;
  try {
    return await make((made) => (bindings = made));
  } finally {
    publish(names, bindings);
  }
}

function accessors(names) {
  const parts = [];
  for (let i = 0; i < names.length; i++) parts[i] = `()=>${names[i]},v=>{${names[i]}=v}`;
  return join(parts, ',');
}

/** Returns the position of the last expression, or -1. */
function lastExpression(source) {
  const starts = [0];
  const end = withoutEnd(source).length;
  for (let at = end - 1; at > 0 && starts.length < MAX_STARTS; at--) {
    if (string.includes('\n;}', source[at])) starts[starts.length] = at + 1;
  }
  // The longest one, so that the lines of one expression are not divided.
  for (let i = 0; i < starts.length; i++) {
    const start = i === 0 ? 0 : starts[starts.length - i];
    const expression = withoutEnd(string.slice(source, start));
    if (
      accepts(AsyncFunction, `return (${expression}\n)`) &&
      accepts(AsyncFunction, `${string.slice(source, 0, start)}\n;(${expression}\n)`)
    )
      return start;
  }
  return -1;
}

/** Returns a source without the semicolons at its end. */
function withoutEnd(source) {
  const found = regExpExec(/[\s;]+$/, source);
  return found === null ? source : string.slice(source, 0, found.index);
}

/** Returns a name that does not occur in the source. */
function unused(source, name) {
  while (string.includes(source, name)) name += '_';
  return name;
}
