// `Intl.NumberFormat` and `Intl.PluralRules`.

import { decimalOf, digitsOf, rounded, scaled } from './decimals.js';
import {
  callable,
  choice,
  integer,
  intlClass,
  joined,
  optionsObject,
  patternParts,
  resolveLocale,
} from './locales.js';

const MODES = [
  'ceil',
  'floor',
  'expand',
  'trunc',
  'halfCeil',
  'halfFloor',
  'halfExpand',
  'halfTrunc',
  'halfEven',
];
const INCREMENTS = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000];
const DIGITS = {
  0: 'BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF',
  3: 'BHD IQD JOD KWD LYD OMR TND',
  4: 'CLF UYW',
};

const currencyDigits = (code) =>
  Number(Object.keys(DIGITS).find((digits) => DIGITS[digits].includes(code)) ?? 2);

/** Reads the options of digits into `resolved`. */
function readDigits(options, resolved, leastDefault, mostDefault, notation) {
  const minimumIntegerDigits = integer(options, 'minimumIntegerDigits', 1, 21, 1);
  const given = (name) => options[name];
  let leastFraction = given('minimumFractionDigits');
  let mostFraction = given('maximumFractionDigits');
  const leastSignificant = given('minimumSignificantDigits');
  const mostSignificant = given('maximumSignificantDigits');
  resolved.minimumIntegerDigits = minimumIntegerDigits;
  const increment = integer(options, 'roundingIncrement', 1, 5000, 1);
  if (!INCREMENTS.includes(increment))
    throw new RangeError('roundingIncrement value is out of range.');
  const roundingMode = choice(options, 'roundingMode', MODES, 'halfExpand');
  const roundingPriority = choice(
    options,
    'roundingPriority',
    ['auto', 'morePrecision', 'lessPrecision'],
    'auto',
  );
  const trailingZeroDisplay = choice(
    options,
    'trailingZeroDisplay',
    ['auto', 'stripIfInteger'],
    'auto',
  );
  if (increment !== 1) mostDefault = leastDefault;
  const hasSignificant = leastSignificant !== undefined || mostSignificant !== undefined;
  const hasFraction = leastFraction !== undefined || mostFraction !== undefined;
  const needsSignificant = roundingPriority !== 'auto' || hasSignificant;
  const needsFraction =
    roundingPriority !== 'auto' || !(hasSignificant || (!hasFraction && notation === 'compact'));
  if (needsFraction) {
    if (hasFraction) {
      leastFraction = integer(options, 'minimumFractionDigits', 0, 100);
      mostFraction = integer(options, 'maximumFractionDigits', 0, 100);
      if (leastFraction === undefined) leastFraction = Math.min(leastDefault, mostFraction);
      else if (mostFraction === undefined) mostFraction = Math.max(mostDefault, leastFraction);
      else if (leastFraction > mostFraction)
        throw new RangeError('maximumFractionDigits value is out of range.');
    } else [leastFraction, mostFraction] = [leastDefault, mostDefault];
    resolved.minimumFractionDigits = leastFraction;
    resolved.maximumFractionDigits = mostFraction;
  }
  if (needsSignificant) {
    resolved.minimumSignificantDigits = integer(options, 'minimumSignificantDigits', 1, 21, 1);
    resolved.maximumSignificantDigits = integer(
      options,
      'maximumSignificantDigits',
      resolved.minimumSignificantDigits,
      21,
      21,
    );
  }
  if (!needsFraction && !needsSignificant) {
    Object.assign(resolved, {
      minimumFractionDigits: 0,
      maximumFractionDigits: 0,
      minimumSignificantDigits: 1,
      maximumSignificantDigits: 2,
    });
    resolved.roundingPriority = 'morePrecision';
  } else resolved.roundingPriority = roundingPriority;
  Object.assign(resolved, { roundingIncrement: increment, roundingMode, trailingZeroDisplay });
  if (increment !== 1) {
    if (needsSignificant)
      throw new TypeError('roundingIncrement cannot be used with significant digits');
    if (resolved.minimumFractionDigits !== resolved.maximumFractionDigits)
      throw new RangeError(
        'roundingIncrement needs equal minimumFractionDigits and maximumFractionDigits',
      );
  }
}

/** Rounds by resolved options. Returns the decimal, and the least digits after the point. */
function roundedBy(options, decimal) {
  const {
    roundingMode: mode,
    maximumSignificantDigits: most,
    minimumSignificantDigits: least,
  } = options;
  const byFraction = () => ({
    decimal: rounded(decimal, options.maximumFractionDigits, mode, options.roundingIncrement),
    least: options.minimumFractionDigits,
    places: options.maximumFractionDigits,
  });
  const bySignificant = () => {
    const places = decimal.digits === '' ? most - 1 : most - decimal.exponent;
    const result = rounded(decimal, places, mode);
    const whole = result.digits === '' ? 1 : result.exponent;
    return { decimal: result, least: Math.max(0, least - whole), places };
  };
  if (most === undefined) return byFraction();
  if (options.maximumFractionDigits === undefined || options.roundingPriority === 'auto')
    return bySignificant();
  const [fraction, significant] = [byFraction(), bySignificant()];
  const isMore = significant.places > fraction.places;
  return (options.roundingPriority === 'morePrecision') === isMore ? significant : fraction;
}

class Format {
  #resolved;
  #data;
  #bound;

  constructor(locales, given) {
    const { tag, data } = resolveLocale(locales);
    const options = optionsObject(given);
    this.#data = data;
    choice(options, 'localeMatcher', ['lookup', 'best fit']);
    const style = choice(options, 'style', ['decimal', 'percent', 'currency', 'unit'], 'decimal');
    const currency =
      options.currency === undefined ? undefined : String(options.currency).toUpperCase();
    if (currency === undefined && style === 'currency')
      throw new TypeError('Currency code is required with currency style.');
    if (currency !== undefined && !/^[A-Z]{3}$/.test(currency))
      throw new RangeError(`Invalid currency code : ${options.currency}`);
    const currencyDisplay = choice(
      options,
      'currencyDisplay',
      ['code', 'symbol', 'narrowSymbol', 'name'],
      'symbol',
    );
    const currencySign = choice(options, 'currencySign', ['standard', 'accounting'], 'standard');
    const unit = options.unit === undefined ? undefined : String(options.unit);
    if (unit === undefined && style === 'unit')
      throw new TypeError('Unit is required with unit style.');
    if (unit !== undefined && !isUnit(unit, data))
      throw new RangeError(`Invalid unit argument for Intl.NumberFormat() '${unit}'`);
    const unitDisplay = choice(options, 'unitDisplay', ['short', 'narrow', 'long'], 'short');
    const notation = choice(
      options,
      'notation',
      ['standard', 'scientific', 'engineering', 'compact'],
      'standard',
    );
    const resolved = { locale: tag, numberingSystem: 'latn', style };
    if (style === 'currency') Object.assign(resolved, { currency, currencyDisplay, currencySign });
    if (style === 'unit') Object.assign(resolved, { unit, unitDisplay });
    const digits = style === 'currency' && notation === 'standard' ? currencyDigits(currency) : 0;
    readDigits(
      options,
      resolved,
      digits,
      style === 'currency' && notation === 'standard'
        ? digits
        : style === 'percent'
          ? 0
          : style === 'currency'
            ? 0
            : 3,
      notation,
    );
    const compactDisplay = choice(options, 'compactDisplay', ['short', 'long'], 'short');
    resolved.useGrouping = groupingOf(options, notation);
    resolved.notation = notation;
    if (notation === 'compact') resolved.compactDisplay = compactDisplay;
    resolved.signDisplay = choice(
      options,
      'signDisplay',
      ['auto', 'never', 'always', 'exceptZero', 'negative'],
      'auto',
    );
    this.#resolved = ordered(resolved);
  }

  get format() {
    this.#resolved;
    this.#bound ??= (value) => joined(this.formatToParts(value));
    Object.defineProperty(this.#bound, 'name', { value: '' });
    return this.#bound;
  }

  formatToParts(value = undefined) {
    return numberParts(this.#resolved, this.#data, decimalOf(value));
  }

  formatRange(start, end) {
    return joined(this.formatRangeToParts(start, end));
  }

  formatRangeToParts(start, end) {
    if (start === undefined || end === undefined) throw new TypeError('start or end is undefined');
    const [first, last] = [decimalOf(start), decimalOf(end)];
    if (first.nan || last.nan) throw new RangeError('start or end is NaN');
    const [a, b] = [this.formatToParts(start), this.formatToParts(end)];
    const { symbols } = this.#data.numbers;
    if (joined(a) === joined(b))
      return [{ type: 'approximatelySign', value: symbols.approximately }, ...a].map((part) => ({
        ...part,
        source: 'shared',
      }));
    return [
      ...a.map((part) => ({ ...part, source: 'startRange' })),
      {
        type: 'literal',
        value:
          a.length > 1 && a.some((part) => part.type === 'currency' || part.type === 'unit')
            ? ` ${symbols.range} `
            : symbols.range,
        source: 'shared',
      },
      ...b.map((part) => ({ ...part, source: 'endRange' })),
    ];
  }

  resolvedOptions() {
    return { ...this.#resolved };
  }
}

/** Returns the options with those of rounding last, as the standard lists them. */
function ordered({
  roundingIncrement,
  roundingMode,
  roundingPriority,
  trailingZeroDisplay,
  ...first
}) {
  return { ...first, roundingIncrement, roundingMode, roundingPriority, trailingZeroDisplay };
}

function isUnit(unit, data) {
  const { units } = data.numbers;
  const parts = unit.split('-per-');
  return (
    Object.hasOwn(units, unit) ||
    (parts.length === 2 &&
      parts.every((part) => Object.hasOwn(units, part) && !part.includes('-per-')))
  );
}

function groupingOf(options, notation) {
  const value = options.useGrouping;
  const fallback = notation === 'compact' ? 'min2' : 'auto';
  if (value === undefined || value === 'true' || value === 'false') return fallback;
  if (value === true) return 'always';
  if (value === false || value === null || value === 0 || value === '') return false;
  return choice(options, 'useGrouping', ['min2', 'auto', 'always']);
}

export function numberParts(options, data, decimal) {
  const { numbers } = data;
  const { symbols } = numbers;
  let exponent = 0;
  let compact;
  let result;
  if (options.style === 'percent' && decimal.digits) decimal = scaled(decimal, 2);
  if (decimal.nan || decimal.infinite) result = { decimal, special: true };
  else {
    // The number of digits is known only after rounding, which may add one.
    const power = (value) => (value.digits ? value.exponent - 1 : 0);
    const shift = (magnitude) => shiftOf(options, numbers, magnitude);
    let { by, form } = shift(power(decimal));
    result = roundedBy(options, scaled(decimal, -by));
    const after = power(result.decimal) + by;
    if (result.decimal.digits && after !== power(decimal)) {
      const other = shift(after);
      if (other.by !== by) {
        ({ by, form } = other);
        result = roundedBy(options, scaled(decimal, -by));
      } else form = other.form;
    }
    compact = form;
    exponent = by;
  }
  const isZero = !result.special && result.decimal.digits === '';
  const sign = signOf(options.signDisplay, decimal.negative, isZero || decimal.nan);
  const number = digitParts(options, numbers, result);
  const isScientific = options.notation === 'scientific' || options.notation === 'engineering';
  if (isScientific && !result.special) {
    number.push({ type: 'exponentSeparator', value: symbols.exponent });
    if (exponent < 0) number.push({ type: 'exponentMinusSign', value: symbols.minus });
    number.push({ type: 'exponentInteger', value: String(Math.abs(exponent)) });
  }
  const category = () =>
    pluralCategory(
      data,
      'cardinal',
      options.notation === 'compact' && compact ? decimal : result.decimal,
      visibleDigits(options, result),
      number,
    );
  const pick = (forms) => (typeof forms === 'string' ? forms : (forms[category()] ?? forms.other));
  let body = number;
  if (compact) body = filled(pick(compact), { 0: number }, { c: 'compact' });
  return signed(options, data, body, sign, pick);
}

function shiftOf(options, numbers, magnitude) {
  if (options.notation === 'scientific') return { by: magnitude };
  if (options.notation === 'engineering') return { by: Math.floor(magnitude / 3) * 3 };
  if (options.notation !== 'compact') return { by: 0 };
  const list = numbers.compact[options.compactDisplay];
  const at = Math.min(magnitude, list.length - 1);
  const found = at >= 0 ? list[at] : 0;
  return found === 0 ? { by: 0 } : { by: at + 1 - found[0], form: found[1] };
}

function signOf(display, negative, isZero) {
  switch (display) {
    case 'never':
      return '';
    case 'always':
      return negative ? '-' : '+';
    case 'exceptZero':
      return isZero ? '' : negative ? '-' : '+';
    case 'negative':
      return negative && !isZero ? '-' : '';
    default:
      return negative ? '-' : '';
  }
}

function digitParts(options, numbers, { decimal, special, least }) {
  const { symbols, grouping, minimumGrouping } = numbers;
  if (special)
    return [
      decimal.nan
        ? { type: 'nan', value: symbols.nan }
        : { type: 'infinity', value: symbols.infinity },
    ];
  let [whole, fraction] = digitsOf(decimal);
  whole = whole.padStart(options.minimumIntegerDigits, '0');
  if (!(options.trailingZeroDisplay === 'stripIfInteger' && fraction === ''))
    fraction = fraction.padEnd(least, '0');
  const parts = [];
  const [first, second] = grouping;
  const minimum =
    options.useGrouping === 'always' ? 1 : options.useGrouping === 'min2' ? 2 : minimumGrouping;
  if (options.useGrouping !== false && whole.length >= first + minimum && symbols.group !== '') {
    const groups = [whole.slice(-first)];
    for (let end = whole.length - first; end > 0; end -= second)
      groups.unshift(whole.slice(Math.max(0, end - second), end));
    groups.forEach((value, i) => {
      if (i > 0) parts.push({ type: 'group', value: symbols.group });
      parts.push({ type: 'integer', value });
    });
  } else parts.push({ type: 'integer', value: whole });
  if (fraction !== '')
    parts.push({ type: 'decimal', value: symbols.decimal }, { type: 'fraction', value: fraction });
  return parts;
}

const visibleDigits = (options, { decimal, special, least }) =>
  special ? 0 : Math.max(least ?? 0, digitsOf(decimal)[1].length);

/** Adds the sign, and the currency, the unit or the percent sign. */
function signed(options, data, body, sign, pick) {
  const { numbers } = data;
  const { symbols, patterns } = numbers;
  const signPart =
    sign === '-'
      ? { type: 'minusSign', value: symbols.minus }
      : sign === '+'
        ? { type: 'plusSign', value: symbols.plus }
        : undefined;
  const plain = signPart ? [signPart, ...body] : body;
  if (options.style === 'percent') {
    const pattern = sign === '' ? patterns.percent : patterns.negativePercent;
    return filled(pattern, {
      0: body,
      '-': signPart ? [signPart] : [],
      '%': [{ type: 'percentSign', value: symbols.percent }],
    });
  }
  if (options.style === 'currency') {
    const { currency, currencyDisplay, currencySign } = options;
    const [symbol, narrow, name] = numbers.currencies[currency] ?? [0, 0, currency];
    if (currencyDisplay === 'name') {
      const value = pick(typeof name === 'string' ? name : name);
      return filled(numbers.named, { 0: plain, $: [{ type: 'currency', value }] });
    }
    const value =
      currencyDisplay === 'code'
        ? currency
        : (currencyDisplay === 'narrowSymbol' && narrow) || symbol || currency;
    // Letters are set off from the digits.
    const code = /^[A-Za-z]{2,}$/.test(value) || /[A-Za-z]$/.test(value) ? 'Code' : '';
    const kind = currencySign === 'accounting' ? 'accounting' : 'negativeCurrency';
    let pattern;
    if (sign === '') pattern = code ? patterns.code : patterns.currency;
    else if (sign === '-' && currencySign === 'accounting')
      pattern = code ? patterns.accountingCode : patterns.accounting;
    else
      pattern = patterns[code ? 'negativeCode' : kind === 'accounting' ? 'negativeCurrency' : kind];
    return filled(pattern, {
      0: body,
      '-': signPart ? [signPart] : [],
      $: [{ type: 'currency', value }],
    });
  }
  if (options.style === 'unit') return unitParts(options, numbers, plain, pick);
  return plain;
}

function unitParts({ unit, unitDisplay }, numbers, plain, pick) {
  const forms = numbers.units[unit]?.[unitDisplay];
  if (forms !== undefined) return filled(pick(forms), { 0: plain }, { u: 'unit' });
  const [one, per] = unit.split('-per-');
  const parts = filled(pick(numbers.units[one][unitDisplay]), { 0: plain }, { u: 'unit' });
  const other = numbers.units[per][unitDisplay];
  const name = patternParts(typeof other === 'string' ? other : (other.one ?? other.other)).find(
    (part) => part.field === 'u',
  ).text;
  const last = parts.findLast((part) => part.type === 'unit');
  last.value += unitDisplay === 'long' ? ` per ${name}` : `/${name}`;
  return parts;
}

/** Fills a pattern: fields with parts, or with a text whose type `types` names. */
function filled(pattern, fields, types = {}) {
  const parts = [];
  for (const { literal, field, text } of patternParts(pattern)) {
    if (literal !== undefined) parts.push({ type: 'literal', value: literal });
    else if (text !== undefined) parts.push({ type: types[field], value: text });
    else parts.push(...fields[field]);
  }
  return parts;
}

export const NumberFormat = callable(intlClass(Format, 'NumberFormat'), 'NumberFormat');

let plainFormats = new Map();

/** Formats a number for `toLocaleString`. */
export function numberText(value, locales, options) {
  if (options !== undefined || (locales !== undefined && typeof locales !== 'string'))
    return new Format(locales, options).format(value);
  let format = plainFormats.get(locales);
  if (format === undefined) {
    if (plainFormats.size > 20) plainFormats = new Map();
    plainFormats.set(locales, (format = new Format(locales)));
  }
  return format.format(value);
}

// Plurals.

/** Returns the plural category of a decimal with a number of visible digits. */
function pluralCategory(data, type, decimal, visible) {
  const { categories, integers, million, fractions } = data.plurals[type];
  if (decimal.nan || decimal.infinite) return 'other';
  const [whole, fraction] = digitsOf(decimal);
  if (fraction === '' && visible === 0) {
    if (whole.length > 6 && /0{6}$/.test(whole)) return categories[million];
    const index = whole.length < 3 ? Number(whole) : 100 + Number(whole.slice(-2));
    return categories[integers[index]];
  }
  const row = fractions[Math.min(2, Number(whole))];
  return categories[row[Number(fraction[0] ?? 0)]];
}

class Plurals {
  #resolved;
  #data;

  constructor(locales, given) {
    if (new.target === undefined)
      throw new TypeError("Constructor Intl.PluralRules requires 'new'");
    const { tag, data } = resolveLocale(locales);
    const options = optionsObject(given);
    choice(options, 'localeMatcher', ['lookup', 'best fit']);
    const type = choice(options, 'type', ['cardinal', 'ordinal'], 'cardinal');
    this.#data = data;
    this.#resolved = { locale: tag, type };
    readDigits(options, this.#resolved, 0, 3, 'standard');
  }

  select(value) {
    const decimal = decimalOf(Number(value));
    if (decimal.nan || decimal.infinite) return 'other';
    const result = roundedBy(this.#resolved, decimal);
    return pluralCategory(
      this.#data,
      this.#resolved.type,
      result.decimal,
      visibleDigits(this.#resolved, result),
    );
  }

  selectRange(start, end) {
    if (start === undefined || end === undefined) throw new TypeError('start or end is undefined');
    if (Number.isNaN(Number(start)) || Number.isNaN(Number(end)))
      throw new RangeError('start or end is NaN');
    return this.select(end);
  }

  resolvedOptions() {
    return {
      ...this.#resolved,
      pluralCategories: [...this.#data.plurals[this.#resolved.type].categories],
    };
  }
}

export const PluralRules = intlClass(Plurals, 'PluralRules');
Object.defineProperty(PluralRules, 'name', { value: 'PluralRules' });
