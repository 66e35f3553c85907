// Runs the source of a script at the top level of the realm.
//
// An indirect `eval` turns `var` and function declarations into properties of the
// global object, but `let`, `const` and `class` (and, in strict mode, everything)
// remain local. So an epilogue is added to the source in the same scope: for each
// name that it may declare, a getter and a setter, which become a property of the
// global object. They are bound to the variable itself: later scripts see its
// current value, and a `const` remains constant.
//
// The candidate names are the identifiers at positions where a declaration may have
// one, found by a regular expression, which finds too many rather than too few.
// Afterwards the engine itself determines which of them the script declared, so
// nothing depends on parsing JavaScript here. The epilogue comes after the source, so
// line numbers do not change.

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
import { locateSyntaxError } from './failures.js';
import { LETTER } from './syntax.js';

const global = globalThis;
const { add, has } = SafeSet.prototype;

/** Runs `source`; `label` is its name in stacks. */
export function runScript(source, label) {
  const names = candidates(source);
  const lines = string.split(source, '\n').length;
  if (names.length === 0) {
    runText(source, label, lines);
    return;
  }
  let bindings;
  try {
    bindings = runText(withEpilogue(source, names), label, lines);
  } catch (error) {
    // A parser error after the last line of the source: nothing has run yet, and the
    // source without the epilogue gives the right error.
    if (!(error instanceof SafeSyntaxError) || error.lineNumber <= lines || !isFromParser(error))
      throw error;
    runText(source, label, lines);
    return;
  }
  publish(names, bindings);
}

/** Evaluates a text whose source has a number of lines. */
export function runText(text, label, lines) {
  try {
    return evaluate(`${text}\n//# sourceURL=${label}`);
  } catch (error) {
    if (error instanceof SafeSyntaxError && isFromParser(error)) {
      const { lineNumber, columnNumber } = error;
      // An error at the end is reported on the last line of the source.
      locateSyntaxError(
        error,
        lineNumber > lines ? `${label}:${lines}` : `${label}:${lineNumber}:${columnNumber}`,
      );
    }
    throw error;
  }
}

/** Returns whether an error is of the parser, and not thrown by code of the script. */
export function isFromParser(error) {
  return (
    typeof error.stack === 'string' && regExpExec(/^\w*@\/?isola:guest\//, error.stack) !== null
  );
}

/** Returns a name as a `sourceURL`, which cannot contain white space. */
export function sourceLabel(name) {
  if (name === '') return 'script';
  return regExpExec(/\s/, name) === null ? name : string.replace(name, /\s/g, '_');
}

// The text after which a declaration may name a variable: the start of a line,
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
  // A declaration, because it cannot become the body of an unfinished `if`.
  return `${source}\nconst ${list}=[${join(accessors, ',')}];${list}`;
}

const PROBE = {};

/** Defines properties of the global object for the local variables of the script. */
export function publish(names, bindings) {
  for (let i = 0; i < names.length; i++) {
    const name = names[i];
    const get = bindings[2 * i];
    if (!isOwn(name, get)) continue;
    const set = bindings[2 * i + 1];
    defineProperty(global, name, {
      __proto__: null,
      get,
      set,
      configurable: true,
      enumerable: false,
    });
  }
}

/** Returns whether `get` reads a variable of the script, not one of the global object. */
function isOwn(name, get) {
  const descriptor = getOwnPropertyDescriptor(global, name);
  if (descriptor !== undefined) return descriptor.configurable && probe(name, get, descriptor);
  return isExtensible(global) ? probe(name, get, undefined) : !(name in global) && answers(get);
}

// Defines a global property of that name to test whether `get` reads it. Testing
// whether `get` throws costs several times as much if it does, and most candidates
// are only parameters.
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

/** Returns the names that a script may have declared, possibly too many. */
export { candidates };

/** Returns the value of a global name, such as a function that a script declared. */
export function globalValue(name) {
  return hasOwn(global, name) ? global[name] : undefined;
}
