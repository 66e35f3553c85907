// Runs the source of a script at the top level of the realm.
//
// An indirect `eval` makes properties of the global object out of `var` and
// function declarations, but keeps `let`, `const` and `class` (and, in strict
// mode, everything) to itself. So the source gets an epilogue in the same
// scope: for each name that it may declare, a getter and a setter, which
// become a property of the global object. They are bound to the variable
// itself: later scripts see its present value, and a `const` stays one.
//
// Which names? Every identifier that stands where a declaration may put one,
// found by one regular expression; it finds too many rather than too few.
// Afterwards the engine itself tells which of them the script declared, so
// nothing depends on parsing JavaScript here. The epilogue comes after the
// source, so lines are the author's own.

import {
  apply,
  define,
  defineProperty,
  evaluate,
  getOwnPropertyDescriptor,
  hasOwn,
  isExtensible,
  join,
  regExpExec,
  SafeSet,
  SafeSyntaxError,
  string,
} from './intrinsics.js';
import { placeSyntaxError } from './failures.js';
import { LETTER } from './syntax.js';

const global = globalThis;
const { add, has } = SafeSet.prototype;

/** Runs `source`; `label` stands for it in stacks. */
export function runScript(source, label) {
  const names = candidates(source);
  const lines = string.split(source, '\n').length;
  if (names.length === 0) {
    run(source, label, lines);
    return;
  }
  let bindings;
  try {
    bindings = run(withEpilogue(source, names), label, lines);
  } catch (error) {
    // An error of the parser behind the last line of the author's: nothing
    // has run yet, and the source alone gives the author's own error.
    if (!(error instanceof SafeSyntaxError) || error.lineNumber <= lines || !isFromParser(error)) throw error;
    run(source, label, lines);
    return;
  }
  publish(names, bindings);
}

function run(text, label, lines) {
  try {
    return evaluate(`${text}\n//# sourceURL=${label}`);
  } catch (error) {
    if (error instanceof SafeSyntaxError && isFromParser(error)) {
      const { lineNumber, columnNumber } = error;
      // What is missing at the end is missing on the author's last line.
      placeSyntaxError(error, lineNumber > lines ? `${label}:${lines}` : `${label}:${lineNumber}:${columnNumber}`);
    }
    throw error;
  }
}

/** Whether the parser refused the script, as opposed to code in it that threw. */
export function isFromParser(error) {
  return typeof error.stack === 'string' && regExpExec(/^\w*@\/?isola:guest\//, error.stack) !== null;
}

/** The name as a `sourceURL`, which ends at the first white space. */
export function sourceLabel(name) {
  if (name === '') return 'script';
  return regExpExec(/\s/, name) === null ? name : string.replace(name, /\s/g, '_');
}

// After one of these a declaration may name a variable: the start of a line,
// a bracket, comma or colon of a pattern, the end of a comment, a keyword.
const KEYWORD = String.raw`\b(?:async|let|const|var|class|function)\b`;
const BEFORE = String.raw`(?:^|[\n\r\u2028\u2029,{[:*]|\.\.\.|\*/|${KEYWORD})\s*(?:${KEYWORD}\s*\*?\s*)*`;
const DECLARED = new RegExp(
  String.raw`${BEFORE}([${LETTER}][${LETTER}\d]*)(?![${LETTER}\d]|\s*[:.])`,
  'g',
);

// Words that no declaration can use as a name, here or in strict mode.
const RESERVED = new SafeSet(
  `arguments await break case catch class const continue debugger default delete do else enum eval export extends
  false finally for function if implements import in instanceof interface let new null package private protected
  public return static super switch this throw true try typeof var void while with yield
  undefined NaN Infinity globalThis`.split(/\s+/),
);

function candidates(source) {
  const names = [];
  const seen = new SafeSet();
  DECLARED.lastIndex = 0;
  for (;;) {
    const match = regExpExec(DECLARED, source);
    if (match === null) return names;
    const name = match[1];
    if (apply(has, seen, [name]) || apply(has, RESERVED, [name])) continue;
    apply(add, seen, [name]);
    if (regExpExec(/[^\x00-\x7f]/, name) && !isIdentifier(name)) continue;
    names[names.length] = name;
  }
}

function isIdentifier(name) {
  try {
    evaluate(`(function(){var ${name}})`);
    return true;
  } catch {
    return false;
  }
}

function withEpilogue(source, names) {
  let list = '$isola';
  while (string.includes(source, list)) list += '_';
  const accessors = [];
  for (let i = 0; i < names.length; i++) {
    accessors[i] = `()=>${names[i]},v=>{${names[i]}=v}`;
  }
  // A declaration, so that it cannot become the body of an unfinished `if`.
  return `${source}\nconst ${list}=[${join(accessors, ',')}];${list}`;
}

const PROBE = {};

/** Makes properties of the global object out of what the script kept to itself. */
function publish(names, bindings) {
  for (let i = 0; i < names.length; i++) {
    const name = names[i];
    const get = bindings[2 * i];
    if (!isOwn(name, get)) continue;
    const set = bindings[2 * i + 1];
    defineProperty(global, name, { __proto__: null, get, set, configurable: true, enumerable: false });
  }
}

/** Whether `get` reads a variable of the script, not one of the global object. */
function isOwn(name, get) {
  const descriptor = getOwnPropertyDescriptor(global, name);
  if (descriptor !== undefined) return descriptor.configurable && probe(name, get, descriptor);
  return isExtensible(global) ? probe(name, get, undefined) : !(name in global) && answers(get);
}

// Puts a property of that name in the way, to see whether it is what is read. To
// see whether anything is read at all takes an exception if not, which costs
// several times as much; and most candidates are just parameters.
function probe(name, get, descriptor) {
  define(global, name, PROBE, false);
  const own = get() !== PROBE;
  if (descriptor === undefined) delete global[name];
  else defineProperty(global, name, { __proto__: null, ...descriptor });
  return own;
}

function answers(get) {
  try {
    get();
    return true;
  } catch {
    return false;
  }
}

/** The names that a script may have declared: some more than it did. */
export { candidates };

/** The value of a global name, such as a function that a script declared. */
export function globalValue(name) {
  return hasOwn(global, name) ? global[name] : undefined;
}
