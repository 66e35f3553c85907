// Writes the data of a locale for the guest's `Intl`, derived from that of this Node.js,
// which must have a complete ICU:
//
//   node derive-locale.mjs de > de.js       a script that adds the data in a sandbox
//   node derive-locale.mjs --built-in       writes the files of `lazy/locales`
//
// A pattern has its fields in braces: `{d}/{MM}/{y}`. `lazy/intl/` has the readers.

import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

/** The regions whose English is part of the guest. */
const REGIONS = ['en-AU', 'en-CA', 'en-GB', 'en-IN'];

const UTC = { timeZone: 'UTC', numberingSystem: 'latn', calendar: 'gregory' };
// Its parts differ from each other, and are of one digit.
const DATE = new Date(Date.UTC(2003, 2, 4, 5, 6, 7));

export const UNITS =
  `acre bit byte celsius centimeter day degree fahrenheit fluid-ounce foot gallon gigabit gigabyte gram
  hectare hour inch kilobit kilobyte kilogram kilometer liter megabit megabyte meter microsecond mile
  mile-scandinavian milliliter millimeter millisecond minute month nanosecond ounce percent petabyte
  pound second stone terabit terabyte week yard year kilometer-per-hour mile-per-hour meter-per-second
  liter-per-kilometer mile-per-gallon`.split(/\s+/);

/** Returns the data of a locale. `withNames` adds the names of languages and the like. */
export function localeData(locale, withNames = true) {
  const numbers = numberData(locale);
  return {
    locale,
    ...dateData(locale),
    numbers,
    plurals: pluralData(locale),
    lists: listData(locale),
    relative: relativeData(locale),
    zones: zoneData(locale),
    ...(withNames ? { names: nameData(locale) } : {}),
  };
}

// Dates.

function dateData(locale) {
  const parts = (options, date = DATE) =>
    new Intl.DateTimeFormat(locale, { ...UTC, ...options }).formatToParts(date);
  const names = (type, option, dates, more) =>
    dates.map(
      (date) => parts({ [option]: type, ...more }, date).find((part) => part.type === option).value,
    );
  const months = Array.from({ length: 12 }, (_, i) => new Date(Date.UTC(2003, i, 4)));
  const days = Array.from({ length: 7 }, (_, i) => new Date(Date.UTC(2003, 5, 1 + i)));
  const table = { months: {}, weekdays: {}, eras: {}, periods: [] };
  for (const style of ['long', 'short', 'narrow']) {
    const alone = names(style, 'month', months);
    const inDate = names(style, 'month', months, { day: 'numeric' });
    table.months[style] = alone;
    if (alone.join() !== inDate.join()) table.months[`${style}InDate`] = inDate;
    table.weekdays[style] = names(style, 'weekday', days);
    table.eras[style] = names(style, 'era', [new Date(Date.UTC(-3, 2, 4)), DATE], {
      year: 'numeric',
    });
  }
  const hours = [3, 15].map((hour) => new Date(Date.UTC(2003, 2, 4, hour)));
  table.periods = hours.map(
    (date) =>
      parts({ hour: 'numeric', hour12: true }, date).find((part) => part.type === 'dayPeriod')
        ?.value ?? '',
  );
  table.dayPeriods = Array.from({ length: 24 }, (_, hour) => {
    const date = new Date(Date.UTC(2003, 2, 4, hour));
    return ['long', 'short', 'narrow'].map(
      (dayPeriod) =>
        parts({ dayPeriod, hour: 'numeric', hour12: true }, date).find(
          (part) => part.type === 'dayPeriod',
        )?.value ?? '',
    );
  }).map((list) => (new Set(list).size === 1 ? list[0] : list));

  const pattern = (options) => patternOf(parts(options), table);
  const dates = {};
  for (const era of ['', 'G'])
    for (const year of ['', 'y'])
      for (const month of ['', 'M', 'MMM', 'MMMM'])
        for (const day of ['', 'd'])
          for (const weekday of ['', 'E']) {
            const key = era + year + month + day + weekday;
            if (key === '') continue;
            dates[key] = pattern({
              ...(era && { era: 'short' }),
              ...(year && { year: 'numeric' }),
              ...(month && { month: { M: 'numeric', MMM: 'short', MMMM: 'long' }[month] }),
              ...(day && { day: 'numeric' }),
              ...(weekday && { weekday: 'short' }),
            });
          }
  const times = {};
  for (const hourCycle of ['h12', 'h23'])
    for (const [key, fields] of [
      ['h', ['hour']],
      ['hm', ['hour', 'minute']],
      ['hms', ['hour', 'minute', 'second']],
      ['m', ['minute']],
      ['ms', ['minute', 'second']],
      ['s', ['second']],
    ]) {
      const options = Object.fromEntries(fields.map((field) => [field, 'numeric']));
      if (key[0] !== 'h' && hourCycle === 'h23') continue;
      const name = key[0] === 'h' && hourCycle === 'h23' ? `H${key.slice(1)}` : key;
      times[name] = pattern({ ...options, ...(key[0] === 'h' && { hourCycle }) });
    }
  const styles = ['full', 'long', 'medium', 'short'];
  const styled = {};
  for (const style of styles) styled[style] = pattern({ dateStyle: style });
  const timeStyles = {};
  for (const style of styles) timeStyles[style] = pattern({ timeStyle: style });
  const join = (dateOptions, timeOptions, date, time) => {
    const both = pattern({ ...dateOptions, ...timeOptions });
    return both.replace(date, '{1}').replace(time, '{0}');
  };
  const glue = {};
  for (const style of styles)
    glue[style] = join(
      { dateStyle: style },
      { timeStyle: 'medium' },
      styled[style],
      timeStyles.medium,
    );
  const cycle = new Intl.DateTimeFormat(locale, { hour: 'numeric' }).resolvedOptions().hourCycle;
  const time = cycle === 'h12' ? times.hm : times.Hm;
  const hm = { hour: 'numeric', minute: 'numeric' };
  const mixed = {
    full: join(
      { weekday: 'short', year: 'numeric', month: 'long', day: 'numeric' },
      hm,
      dates.yMMMMdE,
      time,
    ),
    long: join({ year: 'numeric', month: 'long', day: 'numeric' }, hm, dates.yMMMMd, time),
    medium: join({ year: 'numeric', month: 'short', day: 'numeric' }, hm, dates.yMMMd, time),
    short: join({ year: 'numeric', month: 'numeric', day: 'numeric' }, hm, dates.yMd, time),
  };
  const zoned = pattern({ ...hm, timeZoneName: 'short' }).replace(time, '{0}');
  const range = new Intl.DateTimeFormat(locale, { ...UTC, year: 'numeric' })
    .formatRangeToParts(DATE, new Date(Date.UTC(2009, 1, 1)))
    .find((part) => part.source === 'shared');
  const locale_ = new Intl.Locale(locale);
  const week = locale_.getWeekInfo?.() ?? locale_.weekInfo;
  return {
    ...table,
    dates,
    times,
    styled,
    timeStyles,
    glue,
    mixed,
    zoned,
    hourCycle: cycle,
    range: range?.value ?? ' – ',
    week,
  };
}

function patternOf(parts, { months, weekdays, eras }) {
  return parts
    .map(({ type, value }) => {
      switch (type) {
        case 'year':
          return value.length === 2 ? '{yy}' : '{y}';
        case 'month': {
          if (/^\d+$/.test(value)) return value.length === 2 ? '{MM}' : '{M}';
          if (value === months.longInDate?.[2]) return '{MMMM}';
          if (value === months.long[2]) return months.longInDate ? '{LLLL}' : '{MMMM}';
          if (value === months.shortInDate?.[2]) return '{MMM}';
          if (value === months.short[2]) return months.shortInDate ? '{LLL}' : '{MMM}';
          throw new Error(`unknown month ${value}`);
        }
        case 'day':
          return value.length === 2 ? '{dd}' : '{d}';
        case 'weekday':
          return value === weekdays.long[2] && value !== weekdays.short[2] ? '{EEEE}' : '{E}';
        case 'era':
          return value === eras.long[1] && value !== eras.short[1] ? '{GGGG}' : '{G}';
        case 'hour':
          return value.length === 2 ? '{hh}' : '{h}';
        case 'minute':
          return value.length === 2 ? '{mm}' : '{m}';
        case 'second':
          return value.length === 2 ? '{ss}' : '{s}';
        case 'dayPeriod':
          return '{a}';
        case 'timeZoneName':
          return value === 'UTC' ? '{z}' : '{zzzz}';
        default:
          return value;
      }
    })
    .join('');
}

// Numbers.

function numberData(locale) {
  const parts = (options, value) =>
    new Intl.NumberFormat(locale, { numberingSystem: 'latn', ...options }).formatToParts(value);
  const of = (type, list) => list.find((part) => part.type === type)?.value;
  const symbols = {
    decimal: of('decimal', parts({}, 1.5)),
    group: of('group', parts({}, 123456789)) ?? '',
    minus: of('minusSign', parts({}, -1)),
    plus: of('plusSign', parts({ signDisplay: 'always' }, 1)),
    percent: of('percentSign', parts({ style: 'percent' }, 1)),
    exponent: of('exponentSeparator', parts({ notation: 'scientific' }, 1)),
    infinity: of('infinity', parts({}, Infinity)),
    nan: of('nan', parts({}, NaN)),
    approximately:
      of('approximatelySign', new Intl.NumberFormat(locale).formatRangeToParts(1, 1)) ?? '~',
    range:
      new Intl.NumberFormat(locale)
        .formatRangeToParts(1, 2)
        .find((part) => part.source === 'shared')?.value ?? '–',
  };
  const groups = parts({}, 1e12).filter((part) => part.type === 'integer');
  const grouping = [groups.at(-1).value.length, groups.at(-2).value.length];
  const minimumGrouping = of('group', parts({}, 1000)) === undefined ? 2 : 1;
  const isNumber = /^(?:integer|group|decimal|fraction)$/;
  const names = { minusSign: '{-}', plusSign: '{+}', percentSign: '{%}', currency: '{$}' };
  const shape = (list) =>
    list
      .map(({ type, value }) => names[type] ?? (isNumber.test(type) ? '{0}' : value))
      .join('')
      .replace(/(?:\{0\})+/, '{0}');
  const currency = { style: 'currency', currency: 'EUR' };
  const patterns = {
    percent: shape(parts({ style: 'percent' }, 5)),
    currency: shape(parts(currency, 5)),
    code: shape(parts({ ...currency, currencyDisplay: 'code' }, 5)),
    negativeCurrency: shape(parts(currency, -5)),
    negativeCode: shape(parts({ ...currency, currencyDisplay: 'code' }, -5)),
    accounting: shape(parts({ ...currency, currencySign: 'accounting' }, -5)),
    accountingCode: shape(
      parts({ ...currency, currencySign: 'accounting', currencyDisplay: 'code' }, -5),
    ),
    negativePercent: shape(parts({ style: 'percent' }, -5)),
  };
  const rules = new Intl.PluralRules(locale);
  const { pluralCategories } = rules.resolvedOptions();
  const sample = {};
  for (const value of [...Array(200).keys(), 1e6, 1.5, 0.1, 10.5])
    sample[rules.select(value)] ??= value;
  const byPlural = (make) => {
    const forms = {};
    for (const category of pluralCategories) {
      if (sample[category] !== undefined) forms[category] = make(sample[category]);
    }
    const other = forms.other;
    for (const category of pluralCategories)
      if (category !== 'other' && forms[category] === other) delete forms[category];
    return Object.keys(forms).length === 1 ? other : forms;
  };
  const compact = {};
  for (const compactDisplay of ['short', 'long']) {
    compact[compactDisplay] = Array.from({ length: 15 }, (_, power) => {
      const list = parts({ notation: 'compact', compactDisplay }, 10 ** power);
      const digits = of('integer', list)?.length ?? 1;
      if (list.every((part) => part.type !== 'compact')) return 0;
      const form = (mantissa) =>
        parts(
          { notation: 'compact', compactDisplay },
          (mantissa * 10 ** power) / 10 ** (digits - 1),
        )
          .map(({ type, value }) =>
            isNumber.test(type) ? '{0}' : type === 'compact' ? `{c:${value}}` : value,
          )
          .join('')
          .replace(/(?:\{0\})+/, '{0}');
      const forms = byPlural((value) =>
        form(value >= 1 && value < 1000 ? value * 10 ** (digits - 1) : 2),
      );
      return [digits, forms];
    });
  }
  const units = {};
  for (const unit of UNITS) {
    units[unit] = {};
    for (const unitDisplay of ['short', 'long', 'narrow']) {
      units[unit][unitDisplay] = byPlural((value) =>
        parts({ style: 'unit', unit, unitDisplay }, value)
          .map(({ type, value: text }) =>
            isNumber.test(type)
              ? '{0}'
              : type === 'unit'
                ? `{u:${text}}`
                : type === 'percentSign'
                  ? `{u:${text}}`
                  : text,
          )
          .join('')
          .replace(/(?:\{0\})+/, '{0}'),
      );
    }
  }
  const currencies = {};
  for (const code of Intl.supportedValuesOf('currency')) {
    const options = { style: 'currency', currency: code, minimumFractionDigits: 0 };
    const symbol = of('currency', parts(options, 5));
    const narrow = of('currency', parts({ ...options, currencyDisplay: 'narrowSymbol' }, 5));
    const name = byPlural((value) =>
      of('currency', parts({ ...options, currencyDisplay: 'name' }, value)),
    );
    if (symbol === code && narrow === code && name === code) continue;
    currencies[code] = [symbol === code ? 0 : symbol, narrow === symbol ? 0 : narrow, name];
  }
  const named = parts({ ...currency, currencyDisplay: 'name' }, 5)
    .map(({ type, value }) => (isNumber.test(type) ? '{0}' : (names[type] ?? value)))
    .join('')
    .replace(/(?:\{0\})+/, '{0}');
  return { symbols, grouping, minimumGrouping, patterns, named, compact, units, currencies };
}

// Plurals, lists, relative times.

/**
 * Returns the plural categories of 0 to 199, which stand for all integers, of a million,
 * and of numbers with a fraction.
 */
function pluralData(locale) {
  const result = {};
  for (const type of ['cardinal', 'ordinal']) {
    const rules = new Intl.PluralRules(locale, { type });
    const { pluralCategories } = rules.resolvedOptions();
    const index = (value) => pluralCategories.indexOf(rules.select(value));
    const one = new Intl.PluralRules(locale, { type, minimumFractionDigits: 1 });
    result[type] = {
      categories: pluralCategories,
      integers: Array.from({ length: 200 }, (_, value) => index(value)).join(''),
      million: index(1e6),
      // Of .1 to .9 after the integers 0 to 2, and of zeros after a point.
      fractions: [0, 1, 2].map((whole) =>
        Array.from({ length: 10 }, (_, tenth) =>
          pluralCategories.indexOf((tenth === 0 ? one : rules).select(whole + tenth / 10)),
        ).join(''),
      ),
    };
  }
  return result;
}

function listData(locale) {
  const result = {};
  for (const type of ['conjunction', 'disjunction', 'unit']) {
    for (const style of ['long', 'short', 'narrow']) {
      const format = new Intl.ListFormat(locale, { type, style });
      const literals = (items) =>
        format
          .formatToParts(items)
          .filter((part) => part.type === 'literal')
          .map((part) => part.value);
      const [pair] = literals(['A', 'B']);
      const [start, middle, end] = literals(['A', 'B', 'C', 'D']);
      result[`${type}-${style}`] = [pair, start, middle, end];
    }
  }
  return result;
}

function relativeData(locale) {
  const result = {};
  for (const unit of ['second', 'minute', 'hour', 'day', 'week', 'month', 'quarter', 'year']) {
    result[unit] = {};
    for (const style of ['long', 'short', 'narrow']) {
      const always = new Intl.RelativeTimeFormat(locale, { style });
      const auto = new Intl.RelativeTimeFormat(locale, { style, numeric: 'auto' });
      const rules = new Intl.PluralRules(locale);
      const form = (value) => {
        const forms = {};
        for (const number of [...Array(200).keys(), 1e6, 1.5, 0.1]) {
          const category = rules.select(number);
          forms[category] ??= always
            .formatToParts(value * number || value * 0, unit)
            .map((part) => (part.type === 'literal' ? part.value : '{0}'))
            .join('')
            .replace(/(?:\{0\})+/, '{0}');
        }
        return forms;
      };
      const words = {};
      for (const value of [-2, -1, 0, 1, 2]) {
        const list = auto.formatToParts(value, unit);
        if (list.length === 1 && list[0].type === 'literal') words[value] = list[0].value;
      }
      result[unit][style] = { past: form(-1), future: form(1), words };
    }
  }
  return result;
}

// Names.

function zoneData(locale) {
  const groups = new Map();
  const name = (timeZone, timeZoneName, month) =>
    new Intl.DateTimeFormat(locale, { timeZone, timeZoneName, hour: 'numeric' })
      .formatToParts(new Date(Date.UTC(2025, month, 15)))
      .find((part) => part.type === 'timeZoneName').value;
  for (const zone of Intl.supportedValuesOf('timeZone')) {
    const minutes = (month) => name(zone, 'longOffset', month);
    // The first is the name in standard time, whichever half of the year that is.
    const offsetOf = (text) => {
      const [, sign, hours, rest] = /([+-])(\d+):(\d+)/.exec(text) ?? [0, '+', 0, 0];
      return (sign === '-' ? -1 : 1) * (Number(hours) * 60 + Number(rest));
    };
    const january = offsetOf(minutes(0));
    const july = offsetOf(minutes(6));
    const [standard, summer] = january <= july ? [0, 6] : [6, 0];
    const isOffset = (text) => /^(?:GMT|UTC)(?:[+-−].*)?$/.test(text);
    const names = [
      ...['long', 'short'].flatMap((style) => [
        name(zone, style, standard),
        january === july ? '' : name(zone, style, summer),
      ]),
      name(zone, 'longGeneric', standard),
      name(zone, 'shortGeneric', standard),
    ].map((text) => (isOffset(text) ? '' : text));
    if (names.every((text) => text === '')) continue;
    const key = names.join('|');
    groups.set(key, [...(groups.get(key) ?? []), zone]);
  }
  return Object.fromEntries([...groups].map(([key, zones]) => [key, zones.join(' ')]));
}

function nameData(locale) {
  const letters = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ'];
  const pairs = letters.flatMap((a) => letters.map((b) => a + b));
  const collect = (type, codes) => {
    const names = new Intl.DisplayNames(locale, { type, fallback: 'none' });
    const found = {};
    for (const code of codes) {
      const name = names.of(code);
      if (name !== undefined) found[code] = name;
    }
    return found;
  };
  const languages = pairs.map((pair) => pair.toLowerCase());
  return {
    region: collect('region', [...pairs, '001', '150', '419']),
    language: collect('language', [
      ...languages,
      'yue',
      'fil',
      'haw',
      'gsw',
      'zh-Hans',
      'zh-Hant',
      'pt-BR',
      'pt-PT',
      'en-US',
      'en-GB',
      'en-AU',
      'en-CA',
      'fr-CA',
      'fr-CH',
      'de-AT',
      'de-CH',
      'es-ES',
      'es-MX',
      'es-419',
    ]),
    currency: collect('currency', Intl.supportedValuesOf('currency')),
    script: collect(
      'script',
      'Arab Armn Beng Bopo Brai Cyrl Deva Ethi Geor Grek Gujr Guru Hang Hani Hans Hant Hebr Hira Jpan Kana Khmr Knda Kore Laoo Latn Mlym Mong Mymr Orya Sinh Taml Telu Thaa Thai Tibt Zyyy'.split(
        ' ',
      ),
    ),
  };
}

/** Returns what differs from the data of the language. */
function difference(general, own) {
  const isRecord = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
  const result = {};
  for (const [key, value] of Object.entries(own)) {
    if (JSON.stringify(value) === JSON.stringify(general[key])) continue;
    result[key] =
      isRecord(value) && isRecord(general[key]) ? difference(general[key], value) : value;
  }
  return result;
}

// What is not ASCII would take two bytes for each character in the guest.
const ascii = (json) =>
  json.replace(
    /[\x7f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [, , locale] = process.argv;
  if (!locale) {
    console.error('usage: node derive-locale.mjs LOCALE | --built-in');
    process.exit(2);
  }
  if (locale === '--built-in') {
    const general = localeData('en');
    const write = (name, data) =>
      writeFileSync(
        new URL(`lazy/locales/${name}.json`, import.meta.url),
        `${ascii(JSON.stringify(data))}\n`,
      );
    write('en', general);
    for (const name of REGIONS)
      write(name, { ...difference(general, localeData(name)), locale: name });
  } else {
    process.stdout.write(`Intl.addLocaleData(${ascii(JSON.stringify(localeData(locale)))});\n`);
  }
}
