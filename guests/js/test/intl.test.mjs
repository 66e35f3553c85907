// Compares the guest's `Intl` with that of Node.js, which has ICU, for built-in locales.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { createIntl, useData } from '../lazy/intl.js';
import { unicodeProperties } from '../unicode-tables.mjs';
import { zoneTable } from '../zone-tables.mjs';

const tools = process.env.ISOLA_JS_TOOLS;
if (!tools) throw new Error('ISOLA_JS_TOOLS must be the directory with the node_modules');
const read = (name) => readFileSync(new URL(`../lazy/${name}`, import.meta.url), 'utf8');
useData({
  unicode: (await unicodeProperties(tools)) + read('unicode.txt'),
  zones: zoneTable(tools),
  collation: read('collation.txt'),
  locales: ['en', 'en-AU', 'en-CA', 'en-GB', 'en-IN'].map((name) =>
    JSON.parse(read(`locales/${name}.json`)),
  ),
});
const own = createIntl(
  () => [],
  () => [],
  () => undefined,
);

/** Checks that a function of `Intl` gives the same, or an error of the same class. */
function same(what, make) {
  const result = (intl) => {
    try {
      return make(intl);
    } catch (error) {
      return error.name;
    }
  };
  assert.deepEqual(result(own), result(Intl), what);
}

const TIMES = [0, 1700000000123, 1751000000999, Date.UTC(2024, 0, 1), Date.UTC(2023, 6, 4, 12, 30)];
const ZONES = ['UTC', 'America/New_York', 'Europe/Berlin', 'Asia/Kolkata', 'Australia/Sydney'];
const DATES = [
  {},
  { dateStyle: 'full' },
  { dateStyle: 'long', timeStyle: 'long' },
  { dateStyle: 'full', timeStyle: 'full' },
  { dateStyle: 'medium', timeStyle: 'short' },
  { timeStyle: 'short', hourCycle: 'h23' },
  { weekday: 'long' },
  { year: 'numeric', month: 'long' },
  { year: 'numeric', month: '2-digit', day: '2-digit' },
  { month: 'narrow' },
  { weekday: 'short', month: 'short', day: 'numeric', hour: 'numeric' },
  { hour: '2-digit', minute: '2-digit' },
  { hour: 'numeric', minute: 'numeric', second: 'numeric', fractionalSecondDigits: 3 },
  { hour: 'numeric', minute: 'numeric', timeZoneName: 'short' },
  { era: 'long', year: 'numeric', month: 'long', day: 'numeric' },
  { year: '2-digit', month: 'numeric', day: 'numeric' },
  { month: 'bad' },
  { timeZone: 'No/Where' },
];

for (const locale of ['en-US', 'en-GB', 'en-CA']) {
  test(`dates in ${locale}`, () => {
    TIMES.forEach((time, i) => {
      for (const options of DATES)
        same(`${time} ${JSON.stringify(options)}`, (intl) =>
          new intl.DateTimeFormat(locale, { timeZone: ZONES[i], ...options }).formatToParts(time),
        );
    });
  });
}

const NUMBERS = [
  0,
  -0,
  1,
  1.5,
  -1234.567,
  0.000123,
  123456789.987,
  1e21,
  1e-10,
  999999,
  2.5,
  1.005,
  12345678901234567890n,
];
const NUMBER_OPTIONS = [
  {},
  { style: 'percent' },
  { style: 'currency', currency: 'USD' },
  { style: 'currency', currency: 'EUR', currencyDisplay: 'name' },
  { style: 'currency', currency: 'JPY' },
  { style: 'currency', currency: 'CHF', currencySign: 'accounting' },
  { style: 'currency' },
  { notation: 'compact' },
  { notation: 'compact', compactDisplay: 'long' },
  { notation: 'scientific' },
  { notation: 'engineering' },
  { style: 'unit', unit: 'kilometer-per-hour' },
  { style: 'unit', unit: 'liter', unitDisplay: 'long' },
  { style: 'unit', unit: 'nothing' },
  { maximumSignificantDigits: 3 },
  { minimumFractionDigits: 2 },
  { maximumFractionDigits: 101 },
  { signDisplay: 'exceptZero' },
  { useGrouping: false },
  { maximumFractionDigits: 2, roundingMode: 'floor' },
  { maximumFractionDigits: 0, roundingMode: 'halfEven' },
  { minimumFractionDigits: 2, maximumFractionDigits: 2, roundingIncrement: 5 },
];

for (const locale of ['en-US', 'en-GB']) {
  test(`numbers in ${locale}`, () => {
    for (const value of NUMBERS) {
      for (const options of NUMBER_OPTIONS)
        same(`${value} ${JSON.stringify(options)}`, (intl) =>
          new intl.NumberFormat(locale, options).formatToParts(value),
        );
    }
  });
}

test('numbers have the groups of India', () => {
  for (const value of [1234567.5, -12345678])
    same(value, (intl) => new intl.NumberFormat('en-IN').formatToParts(value));
});

test('plurals, lists, relative times and names', () => {
  for (const value of [0, 1, 2, 3, 11, 22, 101, 113, 1e6, 1.5]) {
    for (const type of ['cardinal', 'ordinal'])
      same(`${type} ${value}`, (intl) => new intl.PluralRules('en', { type }).select(value));
  }
  for (const value of [-1, 0, 1, -3, 1.5, 1234]) {
    for (const numeric of ['auto', 'always'])
      same(`${numeric} ${value}`, (intl) =>
        new intl.RelativeTimeFormat('en', { numeric }).formatToParts(value, 'days'),
      );
  }
  for (const list of [[], ['a'], ['a', 'b'], ['a', 'b', 'c', 'd'], [1]])
    same(`list ${list}`, (intl) => new intl.ListFormat('en').format(list));
  for (const [type, code] of [
    ['region', 'US'],
    ['region', 'XZ'],
    ['language', 'de-AT'],
    ['currency', 'EUR'],
    ['script', 'x'],
  ])
    same(`${type} ${code}`, (intl) => new intl.DisplayNames('en', { type }).of(code));
});

test('names of locales', () => {
  for (const tag of [
    'en-us',
    'ZH-hant-tw',
    'iw',
    'en-u-hc-h12-ca-gregory',
    'en_US',
    'e',
    'de-1996',
  ])
    same(tag, (intl) => intl.getCanonicalLocales(tag));
  for (const tag of ['en', 'zh-TW', 'sr-Latn', 'de-AT', 'en-Latn-US'])
    same(tag, (intl) => [
      String(new intl.Locale(tag).maximize()),
      String(new intl.Locale(tag).minimize()),
    ]);
});

test('the order of strings', () => {
  const parts = [...'aAbBäÄáßzZéEöøØñN09 -_.,!?()$αβЯяあ漢字', 'e\u0301'];
  let seed = 1;
  const random = (limit) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * limit);
  };
  const text = () =>
    Array.from({ length: 1 + random(4) }, () => parts[random(parts.length)]).join('');
  for (let i = 0; i < 2000; i++) {
    const [a, b] = [text(), text()];
    for (const options of [
      {},
      { sensitivity: 'base' },
      { sensitivity: 'accent' },
      { caseFirst: 'upper' },
      { numeric: true },
    ])
      same(`${a} ${b} ${JSON.stringify(options)}`, (intl) =>
        Math.sign(new intl.Collator('en', options).compare(a, b)),
      );
  }
});
