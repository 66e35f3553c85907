// Regular expressions with Unicode properties, and with the flags `iu`, which the engine
// has no data for. The constructor that scripts see rewrites such patterns; `rewritten`
// gives the text of a literal. Both keep the pattern that `source` shall return.

import {
  apply,
  define,
  defineProperty,
  getOwnPropertyDescriptor,
  ownKeys,
  safeMap,
  SafeString,
  SafeSyntaxError,
  string,
  uncurry,
} from './intrinsics.js';
import { unicodeFunctions } from './lazy.js';

const Native = RegExp;
const { construct } = Reflect;
const { match: matchSymbol, species } = Symbol;
const { prototype } = Native;
const nativeSource = uncurry(getOwnPropertyDescriptor(prototype, 'source').get);
const nativeFlags = uncurry(getOwnPropertyDescriptor(prototype, 'flags').get);
const { get: getOriginal, has: hasOriginal, set: setOriginal } = WeakMap.prototype;

// The sources of objects that the constructor rewrote, and of rewritten literals.
const originals = new WeakMap();
const literals = safeMap();
let showsOriginals = false;

// The last results, by flags and pattern.
const MAX_CACHED = 64;
const cache = safeMap();

function rewrite(pattern, flags) {
  const key = `${flags}/${pattern}`;
  let text = cache.get(key);
  if (text === undefined) {
    text = unicodeFunctions().rewrite(pattern, flags);
    if (text === undefined) return undefined;
    if (cache.size >= MAX_CACHED) cache.clear();
    cache.set(key, text);
  }
  return text;
}

/** Returns whether flags select the comparison of letters that the engine lacks. */
export const foldsUnicode = (flags) =>
  string.includes(flags, 'i') && (string.includes(flags, 'u') || string.includes(flags, 'v'));

/** Returns the pattern of a literal as the engine needs it, or the pattern itself. */
export function rewrittenLiteral(pattern, flags) {
  let text = rewrite(pattern, flags);
  if (text === undefined || text === pattern) return pattern;
  text = string.replaceAll(text, '\n', '\\n');
  // Two literals that are rewritten to the same text differ by empty groups.
  while ((literals.get(text) ?? pattern) !== pattern) text = `(?:)${text}`;
  literals.set(text, pattern);
  showOriginals();
  return text;
}

function originalSource(object) {
  if (!showsOriginals || typeof object !== 'object' || object === null) return undefined;
  if (apply(hasOriginal, originals, [object])) return apply(getOriginal, originals, [object]);
  try {
    return literals.get(nativeSource(object));
  } catch {
    return undefined;
  }
}

const SOURCE = {
  get source() {
    return originalSource(this) ?? nativeSource(this);
  },
};

/** Replaces the getter of `source`, when the first pattern has been rewritten. */
function showOriginals() {
  if (showsOriginals) return;
  showsOriginals = true;
  const current = getOwnPropertyDescriptor(prototype, 'source');
  if (current === undefined || !current.configurable) return;
  const { get } = getOwnPropertyDescriptor(SOURCE, 'source');
  defineProperty(prototype, 'source', { __proto__: null, ...current, get });
}

/** Returns whether a value is a regular expression, by its `Symbol.match` or its class. */
function isPattern(value) {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return false;
  const matcher = value[matchSymbol];
  return matcher === undefined ? isNative(value) : !!matcher;
}

function isNative(value) {
  if (value === prototype) return false;
  try {
    nativeSource(value);
    return true;
  } catch {
    return false;
  }
}

/** Creates a regular expression as the class `target`. */
function create(pattern, flags, target) {
  if (isPattern(pattern)) {
    const given = flags;
    if (isNative(pattern)) {
      const original = originalSource(pattern);
      if (flags === undefined) flags = nativeFlags(pattern);
      // What was not rewritten can be with other flags.
      pattern = original ?? nativeSource(pattern);
    } else {
      if (given === undefined) flags = pattern.flags;
      pattern = pattern.source;
    }
  }
  pattern = pattern === undefined ? '' : SafeString(pattern);
  flags = flags === undefined ? '' : SafeString(flags);
  let refusal;
  if (!foldsUnicode(flags)) {
    try {
      return construct(Native, [pattern, flags], target);
    } catch (error) {
      if (!isMissingProperty(error)) throw error;
      refusal = error;
    }
  }
  const text = rewrite(pattern, flags);
  if (text === undefined && refusal !== undefined) throw refusal;
  const object = construct(Native, [text ?? pattern, flags], target);
  if (text !== undefined && text !== pattern) {
    showOriginals();
    apply(setOriginal, originals, [object, escaped(pattern)]);
  }
  return object;
}

// The message begins with `invalid property name`, or `invalid class property name`.
const isMissingProperty = (error) =>
  error instanceof SafeSyntaxError && string.includes(error.message, 'property name in');

/** Returns a pattern as `source` shows it. */
function escaped(pattern) {
  try {
    // Without the flags, `\p{..}` means nothing and is no error.
    return nativeSource(new Native(pattern));
  } catch {
    return pattern;
  }
}

export function installRegExp() {
  function RegExp(pattern, flags) {
    const target = new.target;
    if (typeof pattern === 'string' && flags === undefined)
      return construct(Native, [pattern], target ?? RegExp);
    if (target === undefined && flags === undefined && isPattern(pattern)) {
      if (pattern.constructor === RegExp) return pattern;
    }
    return create(pattern, flags, target ?? RegExp);
  }
  const names = ownKeys(Native);
  for (let i = 0; i < names.length; i++) {
    const descriptor = getOwnPropertyDescriptor(Native, names[i]);
    if (names[i] !== species) defineProperty(RegExp, names[i], descriptor);
  }
  // Where the engine would create one of the same class, it recognizes its own class, and
  // splits a text in half the time.
  const { get } = getOwnPropertyDescriptor(
    {
      get [species]() {
        return this === RegExp ? Native : this;
      },
    },
    species,
  );
  defineProperty(RegExp, species, { get, configurable: true, enumerable: false });
  define(prototype, 'constructor', RegExp, false);
  define(globalThis, 'RegExp', RegExp, false);
}
