// `Intl` and the methods that depend on it. It is evaluated when a program uses it for the
// first time; what most programs need of it, English and ASCII, is here without it.

import {
  apply,
  defineProperty,
  define,
  getOwnPropertyDescriptor,
  keys,
  parse,
  regExpExec,
  SafeString,
  SafeTypeError,
  string,
  uncurry,
} from './intrinsics.js';
import { lazyBundle, lazyText } from './lazy.js';

const bigintValue = uncurry(BigInt.prototype.valueOf);
const numberValue = uncurry(Number.prototype.valueOf);
const { toLowerCase, toUpperCase } = String.prototype;
const nativeLower = uncurry(toLowerCase);
const nativeUpper = uncurry(toUpperCase);

let functions;
let intl;

function load() {
  if (functions !== undefined) return functions;
  const loaded = lazyBundle('intl');
  const names = string.split(lazyText('localeNames'), ' ');
  const locales = [];
  for (let i = 0; i < names.length; i++) locales[i] = parse(lazyText(`locale${i}`));
  loaded.useData({
    unicode: lazyText('unicodeData'),
    zones: lazyText('zones'),
    collation: lazyText('collation'),
    locales,
  });
  const { currencies, units } = locales[0].numbers;
  intl = loaded.createIntl(
    () => keys(currencies),
    () => keys(units),
    () => lazyBundle('segmenter').Segmenter,
  );
  functions = loaded;
  return functions;
}

function loadIntl() {
  load();
  return intl;
}

/** Returns whether an argument of locales means the language of the built-in data. */
const isPlain = (locales, options) =>
  options === undefined && (locales === undefined || locales === 'en' || locales === 'en-US');

// ASCII in the order of the root collation; what is missing is ignored.
const ORDER = `\t\n\v\f\r _-,;:!?.'"()[]{}@*/\\&#%\`^+<=>|~$0123456789`;
const rank = [];
for (let code = 0; code < 128; code++) rank[code] = 0;
for (let i = 0; i < ORDER.length; i++) rank[ORDER.charCodeAt(i)] = i + 1;
for (let i = 0; i < 26; i++) rank[97 + i] = rank[65 + i] = ORDER.length + 1 + i;

/** Compares two ASCII strings. A capital comes after the small letter. */
function compareAscii(a, b) {
  let cased = 0;
  let i = 0;
  let j = 0;
  for (;;) {
    while (i < a.length && rank[string.charCodeAt(a, i)] === 0) i++;
    while (j < b.length && rank[string.charCodeAt(b, j)] === 0) j++;
    if (i >= a.length || j >= b.length) return i < a.length ? 1 : j < b.length ? -1 : cased;
    const x = string.charCodeAt(a, i++);
    const y = string.charCodeAt(b, j++);
    if (x === y) continue;
    if (rank[x] !== rank[y]) return rank[x] < rank[y] ? -1 : 1;
    if (cased === 0) cased = x > y ? -1 : 1;
  }
}

function thisText(value, name) {
  if (value === undefined || value === null)
    throw new SafeTypeError(`String.prototype.${name}: this is null or undefined`);
  return SafeString(value);
}

const stringMethods = {
  localeCompare(that, locales = undefined, options = undefined) {
    const text = thisText(this, 'localeCompare');
    const other = SafeString(that);
    if (isPlain(locales, options)) {
      if (text === other) return 0;
      if (isAscii(text) && isAscii(other)) return compareAscii(text, other);
    }
    return load().compareText(text, other, locales, options);
  },

  toLocaleLowerCase(locales = undefined) {
    const text = thisText(this, 'toLocaleLowerCase');
    const language = languageOf(locales);
    if (language === 'tr' || language === 'az') {
      const marked = string.replaceAll(string.replaceAll(text, 'I\u0307', 'i'), '\u0130', 'i');
      return lower(string.replaceAll(marked, 'I', '\u0131'));
    }
    return lower(text);
  },

  toLocaleUpperCase(locales = undefined) {
    const text = thisText(this, 'toLocaleUpperCase');
    const language = languageOf(locales);
    if (language === 'tr' || language === 'az')
      return nativeUpper(string.replaceAll(text, 'i', '\u0130'));
    // In Lithuanian, the dot of a letter with an accent is not written on a capital.
    if (language === 'lt') return nativeUpper(string.replace(text, /([ij\u012f])\u0307/g, '$1'));
    return nativeUpper(text);
  },
};

const isAscii = (text) => regExpExec(/[^\0-\x7f]/, text) === null;

// The method of `text.js`, which knows the final sigma.
let lower = nativeLower;

function languageOf(locales) {
  if (locales === undefined) return undefined;
  if (locales === 'en' || locales === 'en-US') return 'en';
  const [tag] = loadIntl().getCanonicalLocales(locales);
  return tag === undefined ? undefined : string.split(tag, '-')[0];
}

const numberMethods = {
  toLocaleString(locales = undefined, options = undefined) {
    const number = numberValue(this);
    if (
      isPlain(locales, options) &&
      number % 1 === 0 &&
      number < 1e15 &&
      number > -1e15 &&
      number !== 0
    )
      return string.replace(SafeString(number), /\B(?=(?:\d{3})+$)/g, ',');
    return load().numberText(number, locales, options);
  },
};

const bigintMethods = {
  toLocaleString(locales = undefined, options = undefined) {
    return load().numberText(bigintValue(this), locales, options);
  },
};

const dateMethods = {
  toLocaleString(locales = undefined, options = undefined) {
    return load().dateText(this, locales, options, 'any', 'all');
  },
  toLocaleDateString(locales = undefined, options = undefined) {
    return load().dateText(this, locales, options, 'date', 'date');
  },
  toLocaleTimeString(locales = undefined, options = undefined) {
    return load().dateText(this, locales, options, 'time', 'time');
  },
};

const GLOBAL = {
  get Intl() {
    const value = loadIntl();
    define(globalThis, 'Intl', value, false);
    return value;
  },
  set Intl(value) {
    define(globalThis, 'Intl', value, false);
  },
};

/** Installs the methods, each with the length that the standard gives it. */
function install(prototype, methods) {
  const names = keys(methods);
  for (let i = 0; i < names.length; i++) define(prototype, names[i], methods[names[i]], false);
}

export function installIntl() {
  const { toLowerCase: current } = String.prototype;
  lower = (text) => apply(current, text, []);
  install(String.prototype, stringMethods);
  install(Number.prototype, numberMethods);
  install(BigInt.prototype, bigintMethods);
  install(Date.prototype, dateMethods);
  const { get, set } = getOwnPropertyDescriptor(GLOBAL, 'Intl');
  defineProperty(globalThis, 'Intl', {
    __proto__: null,
    get,
    set,
    configurable: true,
    enumerable: false,
  });
}
