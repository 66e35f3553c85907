// ES modules. The engine cannot compile modules at run time, so the body of a
// module runs as an async function: `syntax.js` finds its imports and exports and
// replaces them by blanks, so that everything else keeps its line and column. (In the
// first line the engine's columns are too large by the text before the source;
// `failures.js` subtracts that.)
//
// A module can import modules that were loaded before it, by the name under which
// they were loaded. Imported names are getters on an object around the function, by
// `with`: they are live bindings, and assigning to them is an error.

import {
  apply,
  create,
  define,
  defineProperty,
  evaluate,
  freeze,
  hasOwn,
  join,
  keys,
  safeMap,
  SafeReferenceError,
  SafeString,
  SafeSyntaxError,
  SafeTypeError,
  seal,
  string,
  toStringTag,
} from './intrinsics.js';
import { locateSyntaxError, shiftFirstLine } from './failures.js';
import { withUnicodePatterns } from './patterns.js';
import { candidates, globalValue, isFromParser, runScript, sourceLabel } from './scripts.js';
import { findModuleSyntax, setPosition } from './syntax.js';
import { eraseTypes } from './typescript.js';

// Maps a name to the exports of the module.
const loaded = safeMap();
// Maps the name of an export to its getter in the module that exported it last.
const callable = safeMap();
const modules = [];

// The properties of file name extensions. For others the syntax decides.
const EXTENSIONS = {
  __proto__: null,
  mjs: { goal: 'module' },
  cjs: { goal: 'script' },
  ts: { typescript: true },
  mts: { typescript: true, goal: 'module' },
  cts: { typescript: true, goal: 'script' },
  jsx: { unsupported: true },
  tsx: { unsupported: true },
};
const UNKNOWN = {};

/**
 * Runs a source as a script or as a module, whichever it is; `name` is its name in
 * stacks. Returns a promise if it is a module.
 */
export function runSource(source, name) {
  const label = sourceLabel(name);
  const extension = string.slice(name, string.lastIndexOf(name, '.') + 1);
  const { goal, typescript, unsupported } = EXTENSIONS[extension] ?? UNKNOWN;
  if (unsupported) throw new SafeSyntaxError(`${name}: JSX is not supported`);
  if (typescript) source = eraseTypes(source, label);
  source = withUnicodePatterns(source);
  if (goal === 'module') return runModule(compileModule(source, label), label);
  try {
    runScript(source, label);
  } catch (error) {
    if (goal === 'script' || !mayBeModule(error, source)) throw error;
    // Nothing of it has run, because the parser rejected it.
    return runModule(compileModule(source, label, error), label);
  }
  if (modules.length > 0) forget(source);
  return undefined;
}

function mayBeModule(error, source) {
  if (!(error instanceof SafeSyntaxError) || !isFromParser(error)) return false;
  return (
    string.includes(source, 'import') ||
    string.includes(source, 'export') ||
    string.includes(source, 'await')
  );
}

/** Removes a script's own names from the exports of earlier modules, which they hide. */
function forget(source) {
  const names = candidates(source);
  for (let i = 0; i < names.length; i++) callable.delete(names[i]);
}

/** Returns the value of an export, or of a global name. */
export function namedValue(name) {
  const get = callable.get(name);
  return get === undefined ? globalValue(name) : get();
}

/** Creates the error for a missing function, which the last module may not have exported. */
export function missing(name) {
  if (modules.length === 0) return new SafeReferenceError(`${name} is not defined`);
  const { label, exported } = modules[modules.length - 1];
  const names = keys(exported);
  const list = names.length === 0 ? 'nothing' : join(names, ', ');
  return new SafeReferenceError(`${name} is not defined: ${label} exports ${list}`);
}

/** Compiles a module. `asScript` is the error of the source when compiled as a script. */
function compileModule(source, label, asScript = undefined) {
  const helper = unused(source, 'i');
  const byDefault = unused(source, 'd');
  const scope = unused(source, 's');
  let syntax;
  try {
    syntax = findModuleSyntax(source, helper, byDefault);
  } catch (error) {
    locateSyntaxError(error, `${label}:${error.lineNumber}:${error.columnNumber}`);
    throw error;
  }
  const { imports, exports, text, balanced } = syntax;
  const isModule = asScript === undefined || imports.length > 0 || exports.length > 0;
  // A script that uses top-level `await`: its declarations can be called as usual.
  if (asScript !== undefined && exports.length === 0) declare(exports, source);
  // Unbalanced brackets must not affect the text around the source.
  if (!balanced)
    throw asScript !== undefined && !isModule ? asScript : brokenModule(source, text, label);
  const getters = [];
  for (let i = 0; i < exports.length; i++) {
    const { local } = exports[i];
    getters[i] = local === undefined ? 'undefined' : `()=>${local}`;
  }
  const around = imports.length > 0 ? `with(${scope})` : '';
  const before = `(function(${scope}){${around}{return async function(${helper}){"use strict";`;
  const after = `\nreturn[${join(getters, ',')}]}}})`;
  const lines = lineCount(source);
  let make;
  try {
    make = evaluate(`${before}${text}${after}\n//# sourceURL=${label}`);
  } catch (error) {
    if (!isModule) throw asScript;
    if (error instanceof SafeSyntaxError && isFromParser(error))
      placeInModule(error, label, lines, before.length);
    throw error;
  }
  shiftFirstLine(label, before.length);
  return { make, imports, exports, source };
}

function declare(exports, source) {
  const names = candidates(source);
  for (let i = 0; i < names.length; i++) {
    const name = names[i];
    if (!hasOwn(globalThis, name))
      exports[exports.length] = { name, local: name, guessed: true, at: 0 };
  }
}

/** Returns the engine's own error for a source with unbalanced brackets. */
function brokenModule(source, text, label) {
  const lines = lineCount(source);
  try {
    // Parsed alone; the engine adds two lines before it.
    new AsyncFunction(`"use strict";${text}`);
  } catch (error) {
    if (error instanceof SafeSyntaxError) {
      const line = error.lineNumber - 2;
      locateSyntaxError(
        error,
        line > lines ? `${label}:${lines}` : `${label}:${line}:${error.columnNumber}`,
      );
      return error;
    }
  }
  const error = new SafeSyntaxError('a bracket, a quote or a comment is not closed');
  locateSyntaxError(error, `${label}:${lines}`);
  return error;
}
const AsyncFunction = (async () => {}).constructor;

function placeInModule(error, label, lines, shift) {
  const { lineNumber, columnNumber } = error;
  const column = lineNumber === 1 ? columnNumber - shift : columnNumber;
  locateSyntaxError(
    error,
    lineNumber > lines ? `${label}:${lines}` : `${label}:${lineNumber}:${column}`,
  );
}

const lineCount = (source) => string.split(source, '\n').length;

/** Returns a name as long as `import` that does not occur in the source. */
function unused(source, letter) {
  for (let number = 0; ; number++) {
    const digits = SafeString(number);
    const name = `$${letter}${string.repeat('0', digits.length < 4 ? 4 - digits.length : 0)}${digits}`;
    if (!string.includes(source, name)) return name;
  }
}

async function runModule({ make, imports, exports, source }, label) {
  const scope = create(null);
  const from = safeMap();
  for (let i = 0; i < imports.length; i++) link(imports[i], scope, from, source, label);
  for (let i = 0; i < exports.length; i++) {
    if (exports[i].from !== undefined)
      from.set(exports[i].from, find(exports[i].from, exports[i].at, source, label));
  }
  freeze(scope);
  const load = async (specifier) => resolve(SafeString(specifier), label).namespace;
  define(load, 'meta', { __proto__: null, url: label }, false);
  const getters = await apply(make(scope), undefined, [load]);
  const exported = { __proto__: null };
  for (let i = 0; i < exports.length; i++)
    add(exported, exports[i], getters[i], from, source, label);
  publish(label, exported);
}

function link({ specifier, name, local, at }, scope, from, source, label) {
  const module = find(specifier, at, source, label);
  from.set(specifier, module);
  if (local === undefined) return;
  let get = () => module.namespace;
  if (name !== undefined) get = exportOf(module, name, specifier, at, source, label);
  defineProperty(scope, local, { __proto__: null, get, enumerable: true, configurable: false });
}

function exportOf(module, name, specifier, at, source, label) {
  const get = module.exported[name];
  if (get !== undefined) return get;
  throw located(
    new SafeSyntaxError(`the module '${specifier}' does not export ${name}`),
    at,
    source,
    label,
  );
}

function find(specifier, at, source, label) {
  try {
    return resolve(specifier, label);
  } catch (error) {
    throw located(error, at, source, label);
  }
}

function located(error, at, source, label) {
  setPosition(error, source, at);
  locateSyntaxError(error, `${label}:${error.lineNumber}:${error.columnNumber}`);
  return error;
}

/** Returns the loaded module to which a specifier in the module `label` refers. */
function resolve(specifier, label) {
  const path =
    string.startsWith(specifier, './') || string.startsWith(specifier, '../')
      ? normal(`${string.slice(label, 0, string.lastIndexOf(label, '/') + 1)}${specifier}`)
      : normal(specifier);
  const module = loaded.get(path);
  if (module !== undefined) return module;
  const why = 'a module can only import modules that were loaded before it';
  throw new SafeTypeError(`cannot find the module '${specifier}', which ${label} imports: ${why}`);
}

/** Returns a path without `.` and `..`. */
function normal(path) {
  const parts = string.split(path, '/');
  const kept = [];
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i];
    if (part === '.' || (part === '' && i > 0)) continue;
    if (part === '..' && kept.length > 0 && kept[kept.length - 1] !== '..') kept.length--;
    else kept[kept.length] = part;
  }
  return join(kept, '/');
}

function add(exported, item, get, from, source, label) {
  const { name, local, imported, guessed, at } = item;
  if (local !== undefined) {
    try {
      get();
    } catch (error) {
      if (!(error instanceof SafeReferenceError)) throw error;
      if (guessed) return;
      throw located(
        new SafeSyntaxError(`${local} is exported, but not declared`),
        at,
        source,
        label,
      );
    }
    if (exported[name] !== undefined && !guessed) {
      throw located(new SafeSyntaxError(`${name} is exported twice`), at, source, label);
    }
    exported[name] = get;
    return;
  }
  const module = from.get(item.from);
  if (imported !== undefined) {
    exported[name] = exportOf(module, imported, item.from, at, source, label);
  } else if (name !== undefined) {
    exported[name] = () => module.namespace;
  } else {
    const names = keys(module.exported);
    for (let i = 0; i < names.length; i++) {
      if (names[i] !== 'default') exported[names[i]] ??= module.exported[names[i]];
    }
  }
}

function publish(label, exported) {
  const namespace = create(null);
  const names = keys(exported);
  for (let i = 0; i < names.length; i++) {
    const get = exported[names[i]];
    defineProperty(namespace, names[i], {
      __proto__: null,
      get,
      enumerable: true,
      configurable: false,
    });
    callable.set(names[i], get);
  }
  define(namespace, toStringTag, 'Module', false);
  seal(namespace);
  loaded.set(normal(label), { namespace, exported });
  modules[modules.length] = { label, exported };
}
