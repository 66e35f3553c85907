// `console`: every record is sent to the host, with its level.

import * as host from 'isola:sandbox/host@0.1.0';
import {
  define,
  join,
  now,
  SafeError,
  safeMap,
  SafeNumber,
  SafeString,
  string,
  stringify,
} from './intrinsics.js';
import { errorText, userFrames } from './failures.js';
import { inspect } from './inspect.js';
import { tableText } from './table.js';

let indentation = '';
const counts = safeMap();
const clocks = safeMap();

function write(level, args) {
  let text = formatLine(args);
  if (indentation !== '') text = indentation + string.replaceAll(text, '\n', `\n${indentation}`);
  host.log(level, text);
}

/** Formats the arguments of `console.log`, including substitutions. */
export function formatLine(args) {
  const parts = [];
  let next = 0;
  if (args.length > 1 && typeof args[0] === 'string' && string.includes(args[0], '%')) {
    const { text, used } = substitute(args);
    parts[0] = text;
    next = used;
  }
  for (; next < args.length; next++) {
    const value = args[next];
    parts[parts.length] = typeof value === 'string' ? value : inspect(value, { errorText });
  }
  return join(parts, ' ');
}

function substitute(args) {
  const pattern = args[0];
  let text = '';
  let used = 1;
  let from = 0;
  for (;;) {
    const at = string.indexOf(pattern, '%', from);
    if (at < 0 || at === pattern.length - 1) break;
    text += string.slice(pattern, from, at);
    const directive = pattern[at + 1];
    from = at + 2;
    if (directive === '%') {
      text += '%';
    } else if (used < args.length && string.includes('sdifjoOc', directive)) {
      text += substitution(directive, args[used++]);
    } else {
      text += `%${directive}`;
    }
  }
  return { text: text + string.slice(pattern, from), used };
}

function substitution(directive, value) {
  switch (directive) {
    case 's':
      if (typeof value === 'string') return value;
      if (typeof value === 'object' && value !== null)
        return inspect(value, { depth: 0, errorText });
      return inspect(value);
    case 'd':
    case 'i':
    case 'f':
      if (typeof value === 'bigint') return `${SafeString(value)}n`;
      if (typeof value === 'symbol' || (typeof value === 'object' && directive !== 'f'))
        return 'NaN';
      if (directive === 'd') return SafeString(SafeNumber(value));
      return SafeString(directive === 'i' ? parseInteger(value) : parseDecimal(value));
    case 'j':
      try {
        return SafeString(stringify(value));
      } catch {
        return '[Circular]';
      }
    case 'o':
      return inspect(value, { depth: 4, errorText });
    case 'O':
      return inspect(value, { errorText });
    default:
      // %c is CSS, for browsers.
      return '';
  }
}
const parseInteger = globalThis.parseInt;
const parseDecimal = globalThis.parseFloat;

function elapsed(label) {
  const started = clocks.get(label);
  return started === undefined ? undefined : `${label}: ${(now() - started).toFixed(3)}ms`;
}

const methods = {
  log: (...args) => write('info', args),
  info: (...args) => write('info', args),
  debug: (...args) => write('debug', args),
  warn: (...args) => write('warning', args),
  error: (...args) => write('error', args),
  trace(...args) {
    const frames = userFrames(new SafeError());
    const headline = args.length > 0 ? `Trace: ${formatLine(args)}` : 'Trace';
    let text = headline;
    for (let i = 0; i < frames.length; i++) text += `\n    at ${frames[i]}`;
    write('debug', [text]);
  },
  dir: (value, options) =>
    write('info', [inspect(value, { depth: options?.depth ?? 2, errorText })]),
  dirxml: (...args) => write('info', args),
  table(data, columns) {
    write('info', [tableText(data, columns) ?? data]);
  },
  assert(condition, ...args) {
    if (condition) return;
    write(
      'error',
      args.length > 0 ? [`Assertion failed: ${formatLine(args)}`] : ['Assertion failed'],
    );
  },
  group(...args) {
    if (args.length > 0) write('info', args);
    indentation += '  ';
  },
  groupEnd() {
    indentation = string.slice(indentation, 2);
  },
  count(label = 'default') {
    const count = (counts.get(label) ?? 0) + 1;
    counts.set(label, count);
    write('info', [`${label}: ${count}`]);
  },
  countReset(label = 'default') {
    if (!counts.delete(label)) write('warning', [`Count for '${label}' does not exist`]);
  },
  time(label = 'default') {
    if (clocks.has(label)) write('warning', [`Label '${label}' already exists for console.time()`]);
    else clocks.set(label, now());
  },
  timeLog(label = 'default', ...args) {
    const text = elapsed(label);
    if (text === undefined) write('warning', [`No such label '${label}' for console.timeLog()`]);
    else write('info', [args.length > 0 ? `${text} ${formatLine(args)}` : text]);
  },
  timeEnd(label = 'default') {
    const text = elapsed(label);
    clocks.delete(label);
    if (text === undefined) write('warning', [`No such label '${label}' for console.timeEnd()`]);
    else write('info', [text]);
  },
};

methods.groupCollapsed = methods.group;

export function installConsole(global) {
  const console = {};
  for (const name in methods) define(console, name, methods[name], true);
  define(global, 'console', console, false);
}
