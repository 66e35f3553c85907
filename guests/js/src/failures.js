// Converts errors of scripts and calls to the failures that are reported to the host.

import {
  apply,
  hasOwn,
  isArray,
  join,
  regExpExec,
  SafeError,
  safeMap,
  SafeString,
  string,
} from './intrinsics.js';
import { inspect } from './inspect.js';
import { markedKind } from './kinds.js';

// The directory of the runner's own sources in stacks.
const RUNNER = /^\/?isola:guest\//;
const FRAME = /^(.*?)@(.*?)(?::(\d+)(?::(\d+))?)?$/;
const MAX_CAUSES = 8;
const MAX_TEXT_LENGTH = 64 * 1024;
// The engine's `Error.isError` does not support a DOMException.
const isError = (value) => value instanceof SafeError;

/** Returns the `failure` record of the contract for a thrown value. */
export function failure(thrown) {
  try {
    return {
      name: shorten(nameOf(thrown)),
      message: shorten(messageOf(thrown)),
      trace: shorten(traceOf(thrown)),
      kind: kindOf(thrown),
    };
  } catch {
    // A getter or a proxy of the thrown object threw itself.
    return { name: 'Error', message: 'an error that cannot be read', trace: '', kind: 'exception' };
  }
}

/** Returns a text without its middle if it is too long. */
function shorten(text) {
  if (text.length <= MAX_TEXT_LENGTH) return text;
  const half = MAX_TEXT_LENGTH / 2;
  return `${string.slice(text, 0, half)}\n[... ${text.length - MAX_TEXT_LENGTH} characters ...]\n${string.slice(text, -half)}`;
}

function nameOf(thrown) {
  if (thrown === OUT_OF_MEMORY) return 'InternalError';
  return isError(thrown) ? SafeString(thrown.name) : 'Error';
}

function messageOf(thrown) {
  if (typeof thrown === 'string') return thrown;
  return isError(thrown) ? SafeString(thrown.message) : `Uncaught ${inspect(thrown)}`;
}

// The engine throws this string, not an error, when an allocation failed.
const OUT_OF_MEMORY = 'out of memory';

function kindOf(thrown) {
  if (thrown === OUT_OF_MEMORY) return 'memory';
  if (!isError(thrown)) return 'exception';
  const kind = markedKind(thrown);
  if (kind !== undefined) return kind;
  if (thrown instanceof InternalFault) {
    const message = SafeString(thrown.message);
    if (string.includes(message, 'too much recursion')) return 'recursion';
    if (regExpExec(/out of memory|allocation size overflow/, message)) return 'memory';
  }
  return 'exception';
}
const InternalFault = globalThis.InternalError;

function traceOf(thrown) {
  if (!isError(thrown)) return '';
  return describe(thrown, 0);
}

/** Returns the error's headline and frames, then its causes, indented as in Node. */
function describe(error, depth) {
  const lines = [headline(error)];
  const frames = userFrames(error);
  for (let i = 0; i < frames.length;) {
    let same = i + 1;
    while (same < frames.length && frames[same] === frames[i]) same++;
    // Repeated lines of a runaway recursion are shown once, with their number.
    const times = same - i > 3 ? ` (${same - i} times)` : '';
    for (const last = times === '' ? same : i + 1; i < last; i++)
      lines[lines.length] = `    at ${frames[i]}${times}`;
    i = same;
  }
  if (depth < MAX_CAUSES) {
    if (hasOwn(error, 'cause')) lines[lines.length] = nested('cause', error.cause, depth);
    if (hasOwn(error, 'errors') && isArray(error.errors)) {
      for (let i = 0; i < error.errors.length && i < MAX_CAUSES; i++) {
        lines[lines.length] = nested(`errors[${i}]`, error.errors[i], depth);
      }
    }
  }
  return join(lines, '\n');
}

/** Returns the text of an error for the console. */
export function errorText(error) {
  return describe(error, 0);
}

function nested(label, value, depth) {
  const text = isError(value) ? describe(value, depth + 1) : inspect(value);
  return `  [${label}]: ${string.replaceAll(text, '\n', '\n  ')}`;
}

function headline(error) {
  const name = nameOf(error);
  const message = messageOf(error);
  return message === '' ? name : `${name}: ${message}`;
}

/** Returns `function (file:line:column)` for each frame of user code, innermost first. */
export function userFrames(error) {
  const frames = [];
  const location = scriptLocations.get(error);
  if (location !== undefined) frames[0] = location;
  const stack = error.stack;
  if (typeof stack !== 'string') return frames;
  const lines = string.split(stack, '\n');
  for (let i = 0; i < lines.length; i++) {
    const parts = regExpExec(FRAME, lines[i]);
    if (
      parts === null ||
      regExpExec(RUNNER, parts[2]) ||
      parts[2] === '' ||
      parts[2] === 'self-hosted'
    )
      continue;
    const position =
      parts[3] === undefined ? parts[2] : `${parts[2]}:${parts[3]}:${columnOf(parts)}`;
    const name = functionName(parts[1]);
    frames[frames.length] = name === '' ? position : `${name} (${position})`;
  }
  return frames;
}

/** Returns the column, without the text that the runner adds before a module's first line. */
function columnOf(parts) {
  const column = parts[4] ?? 0;
  const shift = parts[3] === '1' ? shifts.get(parts[2]) : undefined;
  return shift === undefined ? column : column - shift;
}
const shifts = safeMap();

/** Sets the number of columns that the engine adds in a file's first line. */
export function shiftFirstLine(label, columns) {
  shifts.set(label, columns);
}

/** Converts the engine's `async*f` for an awaiting caller and `f/<` for a function inside `f`. */
function functionName(name) {
  let prefix = '';
  const asynchronous = regExpExec(
    /^(?:async|promise callback|setTimeout handler|\w[\w ]*)\*/,
    name,
  );
  if (asynchronous) {
    prefix = 'async ';
    name = string.slice(name, asynchronous[0].length);
  }
  if (string.endsWith(name, '<')) return '';
  return name === '' ? '' : prefix + name;
}

/** The locations of syntax errors in scripts, which have no frame there. */
const scriptLocations = (() => {
  const locations = new WeakMap();
  const { get, set } = WeakMap.prototype;
  return {
    get: (error) => apply(get, locations, [error]),
    set: (error, location) => apply(set, locations, [error, location]),
  };
})();

/** Sets the location of a syntax error in its script. */
export function locateSyntaxError(error, location) {
  scriptLocations.set(error, location);
}
