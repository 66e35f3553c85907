// `Intl` as one bundle, which `src/intl.js` evaluates when a program uses it.

import { Collator, compareText, useCollation } from './intl/collator.js';
import { DateTimeFormat, dateText } from './intl/dates.js';
import { Locale } from './intl/locale.js';
import { addLocaleData, localeList } from './intl/locales.js';
import { numberText, NumberFormat, PluralRules } from './intl/numbers.js';
import { DisplayNames, ListFormat, RelativeTimeFormat } from './intl/texts.js';
import { useZones, zoneNames } from './intl/zones.js';
import { useTable } from './sets.js';

/** Gives the functions their data. */
export function useData({ unicode, zones, collation, locales }) {
  useTable(unicode);
  useZones(zones);
  useCollation(collation);
  for (const data of locales) addLocaleData(data);
}

/** Creates the object `Intl`. `segmenter` returns the class `Segmenter`. */
export function createIntl(currencies, units, segmenter) {
  const intl = {};
  const add = (name, value) =>
    Object.defineProperty(intl, name, { value, writable: true, configurable: true });
  for (const [name, value] of Object.entries({
    Collator,
    DateTimeFormat,
    DisplayNames,
    ListFormat,
    Locale,
    NumberFormat,
    PluralRules,
    RelativeTimeFormat,
  }))
    add(name, value);
  Object.defineProperty(intl, 'Segmenter', {
    get() {
      const value = segmenter();
      add('Segmenter', value);
      return value;
    },
    set: (value) => add('Segmenter', value),
    configurable: true,
  });
  const functions = {
    addLocaleData,
    getCanonicalLocales: (locales) => localeList(locales),
    supportedValuesOf(key) {
      const values = {
        calendar: () => ['gregory'],
        collation: () => [],
        currency: () => currencies(),
        numberingSystem: () => ['latn'],
        timeZone: () => zoneNames(),
        unit: () => units(),
      };
      if (!Object.hasOwn(values, String(key))) throw new RangeError(`Invalid key : ${key}`);
      return values[String(key)]();
    },
  };
  for (const [name, value] of Object.entries(functions)) add(name, value);
  Object.defineProperty(intl, Symbol.toStringTag, { value: 'Intl', configurable: true });
  return intl;
}

export { compareText, dateText, numberText };
