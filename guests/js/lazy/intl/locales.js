// Names of locales, and the data of those that are known.

const known = new Map();
/** The locale of programs that name none. */
export const DEFAULT_LOCALE = 'en-US';

/** Adds the data of a locale. What it lacks is taken from that of its language. */
export function addLocaleData(data) {
  if (typeof data !== 'object' || data === null || typeof data.locale !== 'string')
    throw new TypeError(
      'Intl.addLocaleData: the data must be an object with the name of its locale',
    );
  known.set(canonicalTag(data.locale), data);
}

export const knownLocales = () => [...known.keys()];

const TAG =
  /^(?:[a-z]{2,3}|[a-z]{5,8})(?:-[a-z]{4})?(?:-(?:[a-z]{2}|\d{3}))?(?:-(?:[\da-z]{5,8}|\d[\da-z]{3}))*(?:-[\da-wy-z](?:-[\da-z]{2,8})+)*(?:-x(?:-[\da-z]{1,8})+)?$/i;
const LANGUAGES = {
  __proto__: null,
  iw: 'he',
  in: 'id',
  ji: 'yi',
  tl: 'fil',
  mo: 'ro',
  sh: 'sr-Latn',
  no: 'nb',
};
const REGIONS = {
  __proto__: null,
  UK: 'GB',
  DD: 'DE',
  BU: 'MM',
  TP: 'TL',
  ZR: 'CD',
  YD: 'YE',
  FX: 'FR',
};

/** Returns a tag in its canonical form. */
export function canonicalTag(tag) {
  if (!TAG.test(tag)) throw new RangeError(`Incorrect locale information provided: ${tag}`);
  const parts = tag.toLowerCase().split('-');
  const singleton = parts.findIndex((part, i) => i > 0 && part.length === 1);
  const main = singleton < 0 ? parts : parts.slice(0, singleton);
  const language = LANGUAGES[main[0]];
  if (
    language !== undefined &&
    main[0] !== 'no' &&
    !(language.includes('-') && main[1]?.length === 4)
  )
    main.splice(0, 1, ...language.toLowerCase().split('-'));
  let variants = false;
  const named = main.map((part, i) => {
    if (i === 0) return part;
    if (part.length === 4 && !variants && /^[a-z]/.test(part))
      return part[0].toUpperCase() + part.slice(1);
    if ((part.length === 2 || (part.length === 3 && /^\d/.test(part))) && !variants)
      return REGIONS[part.toUpperCase()] ?? part.toUpperCase();
    variants = true;
    return part;
  });
  if (singleton < 0) return named.join('-');
  return named.concat(extensions(parts.slice(singleton))).join('-');
}

/** Sorts the extensions, and the keywords of `u`. */
function extensions(parts) {
  const groups = [];
  for (let i = 0; i < parts.length; i++) {
    if (parts[i].length === 1 && groups.at(-1)?.[0] !== 'x') groups.push([parts[i]]);
    else groups.at(-1).push(parts[i]);
  }
  const others = groups.filter(([name]) => name !== 'x').sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [i, group] of others.entries()) {
    if (group[0] === 'u') others[i] = unicodeExtension(group);
  }
  return [...others, ...groups.filter(([name]) => name === 'x')].flat();
}

function unicodeExtension(group) {
  const { attributes, keywords } = keywordsOf(group.slice(1));
  const keys = [...keywords.keys()].sort();
  return [
    'u',
    ...attributes.sort(),
    ...keys.flatMap((key) =>
      keywords.get(key) === '' || keywords.get(key) === 'true' ? [key] : [key, keywords.get(key)],
    ),
  ];
}

function keywordsOf(parts) {
  const attributes = [];
  const keywords = new Map();
  let key;
  for (const part of parts) {
    if (part.length === 2) {
      key = keywords.has(part) ? undefined : part;
      if (key !== undefined) keywords.set(key, '');
      else key = `${part} again`;
    } else if (key === undefined) attributes.push(part);
    else if (!key.endsWith(' again'))
      keywords.set(key, keywords.get(key) === '' ? part : `${keywords.get(key)}-${part}`);
  }
  return { attributes, keywords };
}

/** Returns the parts of a canonical tag. */
export function tagParts(tag) {
  const parts = tag.split('-');
  const singleton = parts.findIndex((part, i) => i > 0 && part.length === 1);
  const main = singleton < 0 ? parts : parts.slice(0, singleton);
  const at = parts.indexOf('u', 1);
  const end = at < 0 ? at : parts.findIndex((part, i) => i > at && part.length === 1);
  const { keywords } = keywordsOf(at < 0 ? [] : parts.slice(at + 1, end < 0 ? undefined : end));
  const rest = main.slice(1);
  const script = rest[0]?.length === 4 && !/^\d/.test(rest[0]) ? rest.shift() : undefined;
  const region =
    rest[0] !== undefined && /^(?:[A-Z]{2}|\d{3})$/.test(rest[0]) ? rest.shift() : undefined;
  return { base: main.join('-'), language: main[0], script, region, variants: rest, keywords };
}

export const LOCALE_TAG = Symbol('tag');

/** Implements CanonicalizeLocaleList. */
export function localeList(locales) {
  if (locales === undefined) return [];
  if (locales === null) throw new TypeError('Incorrect locale information provided: null');
  const list =
    typeof locales === 'string' || locales[LOCALE_TAG] !== undefined
      ? [locales]
      : Array.from(Object(locales));
  const seen = new Set();
  for (const item of list) {
    if (typeof item !== 'string' && (typeof item !== 'object' || item === null))
      throw new TypeError('Incorrect locale information provided');
    seen.add(item[LOCALE_TAG] ?? canonicalTag(String(item)));
  }
  return [...seen];
}

const isKnown = (tag) => {
  const { language, base } = tagParts(tag);
  return known.has(base) || known.has(language);
};

/** Returns the first locale of a list that is known, its keywords, and its data. */
export function resolveLocale(locales) {
  const list = localeList(locales);
  const tag = list.find(isKnown) ?? DEFAULT_LOCALE;
  const parts = tagParts(tag);
  return { tag: parts.base, keywords: parts.keywords, data: dataOf(parts) };
}

const merged = new Map();

function dataOf({ base, language, region }) {
  const own = known.get(base) ?? known.get(`${language}-${region}`);
  const general = known.get(language) ?? own;
  if (own === undefined || own === general) return general;
  if (merged.get(base)?.own !== own) merged.set(base, { own, data: merge(general, own) });
  return merged.get(base).data;
}

/** Returns an object with what `own` has, else what `general` has, at each level. */
function merge(general, own) {
  if (!isRecord(general) || !isRecord(own)) return own;
  const result = { ...general };
  for (const key of Object.keys(own))
    result[key] = Object.hasOwn(general, key) ? merge(general[key], own[key]) : own[key];
  return result;
}

const isRecord = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

export function supportedLocales(locales, options) {
  const matcher = options?.localeMatcher;
  if (matcher !== undefined) oneOf('localeMatcher', String(matcher), ['lookup', 'best fit']);
  return localeList(locales).filter(isKnown);
}

// Options.

export function optionsObject(options) {
  if (options === undefined) return { __proto__: null };
  if (options === null) throw new TypeError('Cannot convert null to object');
  return Object(options);
}

function oneOf(name, value, values) {
  if (!values.includes(value))
    throw new RangeError(`Value ${value} out of range for Intl options property ${name}`);
  return value;
}

/** Reads an option that is one of some strings. */
export function choice(options, name, values, fallback) {
  const value = options[name];
  return value === undefined ? fallback : oneOf(name, String(value), values);
}

/** Reads an option that is a number between two limits. */
export function integer(options, name, least, most, fallback) {
  const value = options[name];
  if (value === undefined) return fallback;
  const number = Number(value);
  if (!(number >= least && number <= most)) throw new RangeError(`${name} value is out of range.`);
  return Math.floor(number);
}

const patterns = new Map();

/** Returns a pattern as a list of fields, `{ field }` or `{ field, text }`, and literals. */
export function patternParts(pattern) {
  let parts = patterns.get(pattern);
  if (parts === undefined) {
    parts = pattern
      .split(/(\{[^{}]+\})/)
      .filter((part) => part !== '')
      .map((part) => {
        if (part[0] !== '{' || part.length < 3) return { literal: part };
        const colon = part.indexOf(':');
        return colon < 0
          ? { field: part.slice(1, -1) }
          : { field: part.slice(1, colon), text: part.slice(colon + 1, -1) };
      });
    patterns.set(pattern, parts);
  }
  return parts;
}

export const joined = (parts) => {
  let text = '';
  for (const part of parts) text += part.value;
  return text;
};

/** Makes a class of `Intl`: its name in `toStringTag`, and methods that are not enumerable. */
export function intlClass(Class, name) {
  Object.defineProperty(Class, 'supportedLocalesOf', {
    value: { supportedLocalesOf: (locales, options) => supportedLocales(locales, options) }
      .supportedLocalesOf,
    writable: true,
    configurable: true,
  });
  Object.defineProperty(Class.prototype, Symbol.toStringTag, {
    value: `Intl.${name}`,
    configurable: true,
  });
  return Class;
}

/** Returns a constructor of a class that can also be called as a function. */
export function callable(Class, name) {
  const call = function (locales, options) {
    return Reflect.construct(Class, [locales, options], new.target ?? Class);
  };
  Object.defineProperty(call, 'name', { value: name });
  Object.defineProperty(call, 'length', { value: 0 });
  Object.defineProperty(call, 'prototype', { value: Class.prototype, writable: false });
  Object.defineProperty(
    call,
    'supportedLocalesOf',
    Object.getOwnPropertyDescriptor(Class, 'supportedLocalesOf'),
  );
  Object.defineProperty(Class.prototype, 'constructor', {
    value: call,
    writable: true,
    configurable: true,
  });
  return call;
}
