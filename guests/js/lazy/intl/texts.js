// `Intl.ListFormat`, `Intl.RelativeTimeFormat` and `Intl.DisplayNames`.

import {
  canonicalTag,
  choice,
  intlClass,
  joined,
  optionsObject,
  patternParts,
  resolveLocale,
  tagParts,
} from './locales.js';
import { NumberFormat, PluralRules } from './numbers.js';

const STYLES = ['long', 'short', 'narrow'];

function strictOptions(options) {
  if (options !== undefined && (typeof options !== 'object' || options === null))
    throw new TypeError('the options must be an object');
  return optionsObject(options);
}

class Lists {
  #resolved;
  #literals;

  constructor(locales, given) {
    const { tag, data } = resolveLocale(locales);
    const options = strictOptions(given);
    choice(options, 'localeMatcher', ['lookup', 'best fit']);
    const type = choice(options, 'type', ['conjunction', 'disjunction', 'unit'], 'conjunction');
    const style = choice(options, 'style', STYLES, 'long');
    this.#resolved = { locale: tag, type, style };
    this.#literals = data.lists[`${type}-${style}`];
  }

  format(list) {
    return joined(this.formatToParts(list));
  }

  formatToParts(list) {
    const items = [];
    for (const item of list ?? []) {
      if (typeof item !== 'string') throw new TypeError('Iterable yielded a non-String value');
      items.push(item);
    }
    const [pair, start, middle, end] = this.#literals;
    const parts = [];
    items.forEach((value, i) => {
      if (i > 0) {
        const isLast = i === items.length - 1;
        const literal = items.length === 2 ? pair : isLast ? end : i === 1 ? start : middle;
        parts.push({ type: 'literal', value: literal });
      }
      parts.push({ type: 'element', value });
    });
    return parts;
  }

  resolvedOptions() {
    return { ...this.#resolved };
  }
}

const UNITS = ['second', 'minute', 'hour', 'day', 'week', 'month', 'quarter', 'year'];

class RelativeTimes {
  #resolved;
  #data;
  #numbers;
  #plurals;

  constructor(locales, given) {
    const { tag, data } = resolveLocale(locales);
    const options = optionsObject(given);
    choice(options, 'localeMatcher', ['lookup', 'best fit']);
    const style = choice(options, 'style', STYLES, 'long');
    const numeric = choice(options, 'numeric', ['always', 'auto'], 'always');
    this.#resolved = { locale: tag, style, numeric, numberingSystem: 'latn' };
    this.#data = data;
    this.#numbers = new NumberFormat(tag);
    this.#plurals = new PluralRules(tag);
  }

  format(value, unit) {
    return joined(this.formatToParts(value, unit));
  }

  formatToParts(value, unit) {
    const number = Number(value);
    const name = String(unit).replace(/s$/, '');
    if (!UNITS.includes(name)) throw new RangeError(`Invalid unit argument for format() '${unit}'`);
    if (!Number.isFinite(number)) throw new RangeError(`Invalid time value: ${value}`);
    const { past, future, words } = this.#data.relative[name][this.#resolved.style];
    const word = Object.is(number, -0) ? undefined : words[number];
    if (this.#resolved.numeric === 'auto' && (word ?? words[number]) !== undefined)
      return [{ type: 'literal', value: words[number] }];
    const forms = number < 0 || Object.is(number, -0) ? past : future;
    const pattern = forms[this.#plurals.select(Math.abs(number))] ?? forms.other;
    return patternParts(pattern).flatMap(({ literal }) =>
      literal !== undefined
        ? [{ type: 'literal', value: literal }]
        : this.#numbers.formatToParts(Math.abs(number)).map((part) => ({ ...part, unit: name })),
    );
  }

  resolvedOptions() {
    return { ...this.#resolved };
  }
}

class Names {
  #resolved;
  #data;

  constructor(locales, given) {
    const { tag, data } = resolveLocale(locales);
    if (typeof given !== 'object' || given === null)
      throw new TypeError('the options must be an object');
    choice(given, 'localeMatcher', ['lookup', 'best fit']);
    const style = choice(given, 'style', ['narrow', 'short', 'long'], 'long');
    const types = ['language', 'region', 'script', 'currency', 'calendar', 'dateTimeField'];
    const type = choice(given, 'type', types);
    if (type === undefined) throw new TypeError('Required option "type" must not be undefined');
    const fallback = choice(given, 'fallback', ['code', 'none'], 'code');
    const languageDisplay = choice(given, 'languageDisplay', ['dialect', 'standard'], 'dialect');
    this.#resolved = {
      locale: tag,
      style,
      type,
      fallback,
      ...(type === 'language' ? { languageDisplay } : {}),
    };
    this.#data = data;
  }

  of(given) {
    const code = String(given);
    const { type, fallback } = this.#resolved;
    const canonical = canonicalCode(type, code);
    return this.#name(type, canonical) ?? (fallback === 'code' ? canonical : undefined);
  }

  #name(type, code) {
    if (type === 'currency') {
      const name = this.#data.numbers.currencies[code]?.[2];
      const text = typeof name === 'string' ? name : name?.other;
      // A currency is called by its name in the singular, with capitals.
      return this.#data.names?.currency?.[code] ?? text;
    }
    const names = this.#data.names?.[type] ?? {};
    if (type !== 'language' || Object.hasOwn(names, code))
      return Object.hasOwn(names, code) ? names[code] : undefined;
    const { language, script, region } = tagParts(code);
    let name = names[language];
    if (name === undefined) return undefined;
    let rest = [
      script && (this.#data.names.script?.[script] ?? script),
      region && (this.#data.names.region?.[region] ?? region),
    ];
    if (script && Object.hasOwn(names, `${language}-${script}`)) {
      name = names[`${language}-${script}`];
      rest = rest.slice(1);
    }
    rest = rest.filter(Boolean);
    return rest.length === 0 ? name : `${name} (${rest.join(', ')})`;
  }

  resolvedOptions() {
    return { ...this.#resolved };
  }
}

function canonicalCode(type, code) {
  const wrong = () => new RangeError(`Invalid argument to Intl.DisplayNames.prototype.of: ${code}`);
  switch (type) {
    case 'language':
      return canonicalTag(code);
    case 'region':
      if (!/^(?:[a-z]{2}|\d{3})$/i.test(code)) throw wrong();
      return code.toUpperCase();
    case 'script':
      if (!/^[a-z]{4}$/i.test(code)) throw wrong();
      return code[0].toUpperCase() + code.slice(1).toLowerCase();
    case 'currency':
      if (!/^[a-z]{3}$/i.test(code)) throw wrong();
      return code.toUpperCase();
    default:
      return code;
  }
}

export const ListFormat = intlClass(Lists, 'ListFormat');
export const RelativeTimeFormat = intlClass(RelativeTimes, 'RelativeTimeFormat');
export const DisplayNames = intlClass(Names, 'DisplayNames');
for (const [Class, name] of [
  [ListFormat, 'ListFormat'],
  [RelativeTimeFormat, 'RelativeTimeFormat'],
  [DisplayNames, 'DisplayNames'],
])
  Object.defineProperty(Class, 'name', { value: name });
