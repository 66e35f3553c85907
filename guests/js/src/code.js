// Code in contexts, as in a notebook: `run-code`, `evaluate`, and the verbs of contexts.
//
// The engine has one global object. The globals of a context are the properties that
// code has added to it: they are put aside while code of another context runs.

import * as host from 'isola:sandbox/host@0.1.0';
import {
  apply,
  define,
  defineProperty,
  getOwnPropertyDescriptor,
  keys,
  ownKeys,
  parse,
  safeMap,
  SafeBigInt,
  SafeSet,
  SafeString,
  stringify,
} from './intrinsics.js';
import { failure } from './failures.js';
import { runCell } from './cells.js';
import { runSource } from './modules.js';
import { bundle } from './results.js';
import { maxValueSize, toJson } from './values.js';

const DEFAULT = 'default';

/** The number of contexts of an interpreter. */
const MAX_CONTEXTS = 64;

const global = globalThis;
const { log } = console;
const { has } = SafeSet.prototype;

const contexts = safeMap();
contexts.set(DEFAULT, { id: DEFAULT, count: 0, names: [], descriptors: [] });
let active = DEFAULT;
let nextNumber = 1;
// The properties of the global object that belong to no context.
let builtIn;
// True while `run-code` runs, that is, while the host takes events.
let takesEvents = false;

/** Called when all globals of the guest are installed. */
export function prepareContexts() {
  builtIn = new SafeSet([...ownKeys(global), 'display']);
}

/** Returns the failure of a context that does not exist. */
function missing(id) {
  return contextFailure(`the context '${id}' does not exist`);
}

function contextFailure(message) {
  return { name: 'LookupError', message, trace: '', kind: 'context' };
}

/** Starts code in a context. Returns `{ failure }` or `{ value, label }`. */
export function startCode(source, id) {
  const context = contexts.get(id);
  if (context === undefined) return { failure: missing(id) };
  activate(id);
  takesEvents = true;
  define(global, 'display', display, false);
  context.count++;
  return { run: () => runCell(source, label(context), runSource), context };
}

function label(context) {
  return `${context.id === DEFAULT ? '' : `${context.id}-`}cell-${context.count}.js`;
}

/** Shows the value of the code's last expression. */
export function showResult(value) {
  if (value !== undefined) emitResult(value, true);
}

export function showError(thrown) {
  const { name, message, trace } = failure(thrown);
  send({
    type: 'error',
    name,
    value: message,
    traceback: trace === '' ? `${name}: ${message}` : trace,
  });
}

/** Ends the code of `startCode` and returns its number. */
export function endCode(context) {
  takesEvents = false;
  activate(DEFAULT);
  return SafeBigInt(context.count);
}

/** Returns the value of the last expression as `evaluate` returns it, or a promise of it. */
export function evaluateSource(source) {
  const context = contexts.get(DEFAULT);
  context.count++;
  return represented(runCell(source, label(context), runSource));
}

async function represented(pending) {
  const value = await pending;
  if (value === undefined || value === null) return null;
  if (typeof value === 'object' && typeof value.next === 'function') return value;
  if (typeof value === 'bigint') return value;
  try {
    const text = stringify(value);
    if (text !== undefined) return parse(text);
  } catch {
    // A value that JSON cannot represent is returned as a string.
  }
  return SafeString(value);
}

export function createContext(cwd) {
  if (cwd !== undefined)
    return { failure: contextFailure('a JavaScript context has no working directory') };
  if (contexts.size >= MAX_CONTEXTS) {
    const message = `a sandbox has at most ${MAX_CONTEXTS} contexts: remove one`;
    return { failure: contextFailure(message) };
  }
  const id = `context-${nextNumber++}`;
  contexts.set(id, { id, count: 0, names: [], descriptors: [] });
  return { id };
}

export function restartContext(id) {
  const context = contexts.get(id);
  if (context === undefined) return missing(id);
  if (id === active) putAside(context);
  context.names = [];
  context.descriptors = [];
  context.count = 0;
  return undefined;
}

export function removeContext(id) {
  if (!contexts.has(id)) return missing(id);
  if (id === DEFAULT) return contextFailure("the context 'default' cannot be removed: restart it");
  contexts.delete(id);
  return undefined;
}

export function contextInfos() {
  const infos = [];
  contexts.forEach(({ id, count }) => {
    infos[infos.length] = { id, cwd: '', executionCount: SafeBigInt(count) };
  });
  return infos;
}

/** Makes the globals of a context those of the engine. */
function activate(id) {
  if (id === active) return;
  const previous = contexts.get(active);
  if (previous !== undefined) putAside(previous);
  const { names, descriptors } = contexts.get(id);
  for (let i = 0; i < names.length; i++) defineProperty(global, names[i], descriptors[i]);
  active = id;
}

/** Takes the globals of a context from the global object. */
function putAside(context) {
  context.names = [];
  context.descriptors = [];
  const names = ownKeys(global);
  for (let i = 0; i < names.length; i++) {
    if (apply(has, builtIn, [names[i]])) continue;
    const descriptor = getOwnPropertyDescriptor(global, names[i]);
    // What code made permanent remains visible in all contexts.
    if (!descriptor.configurable) continue;
    context.names[context.names.length] = names[i];
    context.descriptors[context.descriptors.length] = { __proto__: null, ...descriptor };
    delete global[names[i]];
  }
}

/** The global function `display`. */
function display(...values) {
  for (let i = 0; i < values.length; i++) {
    if (takesEvents) emitResult(values[i], false);
    else log(values[i]);
  }
}

function emitResult(value, isMain) {
  const { data, metadata } = bundle(value, maxValueSize());
  if (keys(data).length === 0 && keys(metadata).length === 0) return;
  send({ type: 'result', data, metadata, is_main_result: isMain });
}

/** Sends an event, without its largest entries if it is too long. */
function send(event) {
  for (;;) {
    try {
      host.codeEvent(toJson(event));
      return;
    } catch (error) {
      if (!reduce(event)) throw error;
    }
  }
}

function reduce(event) {
  const data = event.data ?? {};
  const names = keys(data);
  let largest;
  let size = -1;
  for (let i = 0; i < names.length; i++) {
    const length = stringify(data[names[i]]).length;
    if (length > size) {
      largest = names[i];
      size = length;
    }
  }
  if (largest !== undefined) {
    delete data[largest];
    event.metadata.omitted ??= {};
    event.metadata.omitted[largest] = `${size} bytes, over the limit of ${maxValueSize()}`;
    return true;
  }
  if (event.traceback) {
    event.traceback = '';
    return true;
  }
  return false;
}
