// `Intl.DateTimeFormat`, for the Gregorian calendar.

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
import { offsetAt, zoneName, zoneTarget } from './zones.js';

const TEXT = ['narrow', 'short', 'long'];
const DIGITS = ['2-digit', 'numeric'];
const STYLES = ['full', 'long', 'medium', 'short'];
const ZONE_STYLES = ['short', 'long', 'shortOffset', 'longOffset', 'shortGeneric', 'longGeneric'];
const FIELDS = {
  weekday: TEXT,
  era: TEXT,
  year: DIGITS,
  month: [...DIGITS, ...TEXT],
  day: DIGITS,
  dayPeriod: TEXT,
  hour: DIGITS,
  minute: DIGITS,
  second: DIGITS,
};
const DATE_FIELDS = ['weekday', 'era', 'year', 'month', 'day'];
const TIME_FIELDS = ['dayPeriod', 'hour', 'minute', 'second', 'fractionalSecondDigits'];
const CYCLES = ['h11', 'h12', 'h23', 'h24'];
const MAX_TIME = 8.64e15;

class Format {
  #resolved;
  #pattern;
  #data;
  #bound;

  constructor(locales, given, required = 'any', defaults = 'date') {
    const { tag, keywords, data } = resolveLocale(locales);
    const options = optionsObject(given);
    this.#data = data;
    choice(options, 'localeMatcher', ['lookup', 'best fit']);
    const calendar = options.calendar === undefined ? undefined : String(options.calendar);
    if (calendar !== undefined && !/^[\da-z]{3,8}(?:-[\da-z]{3,8})*$/i.test(calendar))
      throw new RangeError(`Invalid calendar : ${calendar}`);
    const hour12 = options.hour12 === undefined ? undefined : Boolean(options.hour12);
    let hourCycle = choice(options, 'hourCycle', CYCLES);
    const zone = options.timeZone === undefined ? 'UTC' : zoneName(String(options.timeZone));
    if (zone === undefined)
      throw new RangeError(`Invalid time zone specified: ${options.timeZone}`);
    const fields = {};
    for (const name of Object.keys(FIELDS)) {
      const value = choice(options, name, FIELDS[name]);
      if (value !== undefined) fields[name] = value;
    }
    const fraction = integer(options, 'fractionalSecondDigits', 1, 3);
    if (fraction !== undefined) fields.fractionalSecondDigits = fraction;
    const zoneStyle = choice(options, 'timeZoneName', ZONE_STYLES);
    if (zoneStyle !== undefined) fields.timeZoneName = zoneStyle;
    choice(options, 'formatMatcher', ['basic', 'best fit']);
    const dateStyle = choice(options, 'dateStyle', STYLES);
    const timeStyle = choice(options, 'timeStyle', STYLES);
    const hasStyle = dateStyle !== undefined || timeStyle !== undefined;
    const [conflict] = Object.keys(fields);
    if (hasStyle && conflict !== undefined)
      throw new TypeError(
        `Can't set option ${conflict} when ${dateStyle === undefined ? 'timeStyle' : 'dateStyle'} is used`,
      );
    if (hasStyle && required === 'date' && timeStyle !== undefined)
      throw new TypeError('Invalid option : timeStyle');
    if (hasStyle && required === 'time' && dateStyle !== undefined)
      throw new TypeError('Invalid option : dateStyle');
    if (!hasStyle) addDefaults(fields, required, defaults);

    const cycleOfLocale = data.hourCycle;
    const half = cycleOfLocale === 'h11' || cycleOfLocale === 'h12' ? cycleOfLocale : 'h12';
    if (hour12 !== undefined) hourCycle = hour12 ? half : 'h23';
    const keyword = keywords.get('hc');
    hourCycle ??= CYCLES.includes(keyword) ? keyword : cycleOfLocale;
    const hasHour = fields.hour !== undefined || timeStyle !== undefined;
    this.#pattern = hasStyle
      ? stylePattern(data, dateStyle, timeStyle, hourCycle)
      : fieldPattern(data, fields, hourCycle);
    this.#resolved = {
      locale:
        tag +
        (CYCLES.includes(keyword) && hourCycle === keyword && hour12 === undefined
          ? `-u-hc-${keyword}`
          : ''),
      calendar: 'gregory',
      numberingSystem: 'latn',
      timeZone: zone,
      ...(hasHour ? { hourCycle, hour12: hourCycle === 'h11' || hourCycle === 'h12' } : {}),
      ...resolvedFields(fields, this.#pattern),
      ...(dateStyle === undefined ? {} : { dateStyle }),
      ...(timeStyle === undefined ? {} : { timeStyle }),
    };
    Object.defineProperty(this.#resolved, 'cycle', { value: hourCycle });
  }

  get format() {
    this.#resolved;
    this.#bound ??= (date) => joined(this.formatToParts(date));
    Object.defineProperty(this.#bound, 'name', { value: '' });
    return this.#bound;
  }

  formatToParts(date = undefined) {
    return this.#parts(timeOf(date));
  }

  formatRange(start, end) {
    return joined(this.formatRangeToParts(start, end));
  }

  formatRangeToParts(start, end) {
    if (start === undefined || end === undefined)
      throw new TypeError('startDate or endDate cannot be undefined');
    const parts = [this.#parts(timeOf(start)), this.#parts(timeOf(end))];
    if (joined(parts[0]) === joined(parts[1]))
      return parts[0].map((part) => ({ ...part, source: 'shared' }));
    const [first, second] = parts;
    // A range within one day has its date once.
    const times = new Set(['hour', 'minute', 'second', 'fractionalSecond', 'dayPeriod']);
    const dateOf = (list) =>
      joined(list.filter((part) => !times.has(part.type) && part.type !== 'literal'));
    const at = first.findIndex((part) => times.has(part.type));
    const shared = at > 0 && dateOf(first) === dateOf(second) ? at : 0;
    return [
      ...first.slice(0, shared).map((part) => ({ ...part, source: 'shared' })),
      ...first.slice(shared).map((part) => ({ ...part, source: 'startRange' })),
      { type: 'literal', value: this.#data.range, source: 'shared' },
      ...second.slice(shared).map((part) => ({ ...part, source: 'endRange' })),
    ];
  }

  resolvedOptions() {
    return { ...this.#resolved };
  }

  #parts(time) {
    const { timeZone, cycle } = this.#resolved;
    const offset = offsetAt(timeZone, time);
    const date = new Date(time + offset * 1000);
    const context = { date, time, offset, timeZone, cycle, data: this.#data };
    const parts = [];
    for (const part of this.#pattern) {
      const found =
        part.literal === undefined
          ? { type: TYPES[part.field[0]], value: fieldText(part.field, context) }
          : { type: 'literal', value: part.literal };
      const last = parts[parts.length - 1];
      if (found.type === 'literal' && last?.type === 'literal') last.value += found.value;
      else if (found.value !== '') parts.push(found);
    }
    return parts;
  }
}

const TYPES = {
  y: 'year',
  M: 'month',
  L: 'month',
  d: 'day',
  E: 'weekday',
  G: 'era',
  h: 'hour',
  m: 'minute',
  s: 'second',
  S: 'fractionalSecond',
  a: 'dayPeriod',
  B: 'dayPeriod',
  z: 'timeZoneName',
};

function timeOf(date) {
  const time = date === undefined ? Date.now() : Number(date);
  if (!(Math.abs(time) <= MAX_TIME)) throw new RangeError('Invalid time value');
  return Math.trunc(time) + 0;
}

function addDefaults(fields, required, defaults) {
  const has = (names) => names.some((name) => fields[name] !== undefined);
  const needs =
    !(
      (required === 'date' || required === 'any') &&
      has(DATE_FIELDS.filter((name) => name !== 'era'))
    ) && !((required === 'time' || required === 'any') && has(TIME_FIELDS));
  if (!needs) return;
  if (defaults === 'date' || defaults === 'all')
    Object.assign(fields, { year: 'numeric', month: 'numeric', day: 'numeric' });
  if (defaults === 'time' || defaults === 'all')
    Object.assign(fields, { hour: 'numeric', minute: 'numeric', second: 'numeric' });
}

/** Returns the fields with the widths that the pattern has. */
function resolvedFields(fields, pattern) {
  const result = {};
  const of = (letter) => pattern.find((part) => part.field?.[0] === letter)?.field;
  for (const name of [
    'weekday',
    'era',
    'year',
    'month',
    'day',
    'dayPeriod',
    'hour',
    'minute',
    'second',
    'fractionalSecondDigits',
    'timeZoneName',
  ]) {
    if (fields[name] === undefined) continue;
    const letter = { year: 'y', month: 'M', day: 'd', hour: 'h', minute: 'm', second: 's' }[name];
    const found = letter && (of(letter) ?? (name === 'month' ? of('L') : undefined));
    result[name] =
      found && found.length <= 2 ? (found.length === 2 ? '2-digit' : 'numeric') : fields[name];
  }
  return result;
}

// Patterns.

function stylePattern(data, dateStyle, timeStyle, cycle) {
  const date = dateStyle && data.styled[dateStyle];
  let time = timeStyle && data.timeStyles[timeStyle];
  if (timeStyle && cycle !== data.hourCycle) {
    const isShort = timeStyle === 'short';
    const plain = isHalf(cycle)
      ? data.times[isShort ? 'hm' : 'hms']
      : data.times[isShort ? 'Hm' : 'Hms'];
    const zone = { full: '{zzzz}', long: '{z}' }[timeStyle];
    time = zone ? data.zoned.replace('{0}', () => plain).replace('{z}', zone) : plain;
  }
  if (!date) return patternParts(time);
  if (!time) return patternParts(date);
  return patternParts(data.glue[dateStyle].replace('{1}', () => date).replace('{0}', () => time));
}

const isHalf = (cycle) => cycle === 'h11' || cycle === 'h12';

function fieldPattern(data, fields, cycle) {
  const date = datePattern(data, fields);
  let time = timePattern(data, fields, cycle);
  const zone = fields.timeZoneName && `{z:${fields.timeZoneName}}`;
  if (zone && time) time = data.zoned.replace('{0}', () => time).replace('{z}', zone);
  else if (zone) time = zone;
  let pattern = date || time;
  if (date && time) {
    const style =
      fields.month === 'long'
        ? fields.weekday
          ? 'full'
          : 'long'
        : fields.month === 'short'
          ? 'medium'
          : 'short';
    const glue = zone === time ? data.mixed.short : data.mixed[style];
    pattern = glue.replace('{1}', () => date).replace('{0}', () => time);
  }
  return patternParts(pattern).map((part) =>
    part.text === undefined ? part : { field: `z${part.text}` },
  );
}

const WIDTHS = { narrow: 5, long: 4, short: 3 };

function datePattern(data, fields) {
  const { era, year, month, day, weekday } = fields;
  const monthKey =
    { numeric: 'M', '2-digit': 'M', long: 'MMMM', short: 'MMM', narrow: 'MMM' }[month] ?? '';
  const key =
    (era ? 'G' : '') + (year ? 'y' : '') + monthKey + (day ? 'd' : '') + (weekday ? 'E' : '');
  if (key === '') return '';
  return data.dates[key].replace(/\{([^{}]+)\}/g, (whole, field) => {
    switch (field[0]) {
      case 'y':
        return year === '2-digit' ? '{yy}' : whole;
      case 'd':
        return day === '2-digit' ? '{dd}' : whole;
      case 'M':
      case 'L':
        if (month === '2-digit' && field.length < 3) return '{MM}';
        return month === 'narrow' ? `{${field[0].repeat(5)}}` : whole;
      case 'E':
        return `{${'E'.repeat(WIDTHS[weekday] ?? 3)}}`;
      case 'G':
        return `{${'G'.repeat(WIDTHS[era] ?? 3)}}`;
      default:
        return whole;
    }
  });
}

function timePattern(data, fields, cycle) {
  const { hour, minute, second, dayPeriod, fractionalSecondDigits: fraction } = fields;
  const needsSecond = second || (fraction && (hour || minute));
  const key =
    (hour ? (isHalf(cycle) ? 'h' : 'H') : '') +
    (minute || (hour && needsSecond) ? 'm' : '') +
    (needsSecond ? 's' : '');
  let pattern = key === '' ? '' : data.times[key];
  if (hour === '2-digit') pattern = pattern.replace('{h}', '{hh}');
  if (fraction) {
    const digits = `{${'S'.repeat(fraction)}}`;
    pattern = needsSecond
      ? pattern.replace(/\{ss?\}/, (found) => `${found}${data.numbers.symbols.decimal}${digits}`)
      : digits;
  }
  if (dayPeriod) {
    const field = `{${'B'.repeat(WIDTHS[dayPeriod])}}`;
    if (pattern === '') pattern = field;
    else pattern = pattern.replace('{a}', field).replace('\u202f', ' ');
  }
  return pattern;
}

// Fields.

const padded = (number, width) => String(number).padStart(width, '0');

function fieldText(field, { date, time, offset, timeZone, cycle, data }) {
  const width = field.length;
  switch (field[0]) {
    case 'y': {
      // With the Gregorian calendar, there is no year 0.
      const year = date.getUTCFullYear();
      const shown = year > 0 ? year : 1 - year;
      return width === 2 ? padded(shown % 100, 2) : String(shown);
    }
    case 'M':
    case 'L': {
      const month = date.getUTCMonth();
      if (width <= 2) return padded(month + 1, width);
      const style = width === 5 ? 'narrow' : width === 4 ? 'long' : 'short';
      const names =
        field[0] === 'M'
          ? (data.months[`${style}InDate`] ?? data.months[style])
          : data.months[style];
      return names[month];
    }
    case 'd':
      return padded(date.getUTCDate(), width);
    case 'E':
      return data.weekdays[width === 5 ? 'narrow' : width === 4 ? 'long' : 'short'][
        date.getUTCDay()
      ];
    case 'G':
      return data.eras[width === 5 ? 'narrow' : width === 4 ? 'long' : 'short'][
        date.getUTCFullYear() > 0 ? 1 : 0
      ];
    case 'h': {
      let hour = date.getUTCHours();
      if (isHalf(cycle)) hour %= 12;
      if (hour === 0 && cycle === 'h12') hour = 12;
      if (hour === 0 && cycle === 'h24') hour = 24;
      return padded(hour, width);
    }
    case 'm':
      return padded(date.getUTCMinutes(), width);
    case 's':
      return padded(date.getUTCSeconds(), width);
    case 'S':
      return padded(date.getUTCMilliseconds(), 3).slice(0, width);
    case 'a':
      return data.periods[date.getUTCHours() < 12 ? 0 : 1];
    case 'B': {
      const names = data.dayPeriods[date.getUTCHours()];
      return typeof names === 'string' ? names : names[{ 4: 0, 3: 1, 5: 2 }[width]];
    }
    default:
      return zoneText(field === 'z' ? 'short' : field === 'zzzz' ? 'long' : field.slice(1), {
        time,
        offset,
        timeZone,
        data,
      });
  }
}

function zoneText(style, { time, offset, timeZone, data }) {
  const isLong = style.startsWith('long');
  if (timeZone === 'UTC' && !style.endsWith('Offset')) {
    if (isLong) return data.utc ?? 'Coordinated Universal Time';
    return style === 'shortGeneric' ? 'GMT' : 'UTC';
  }
  if (!style.endsWith('Offset') && timeZone[2] !== ':' && !/^[+-]/.test(timeZone)) {
    const names = zoneNamesOf(data, timeZone);
    if (names !== undefined) {
      const [long, longSummer, short, shortSummer, longGeneric, shortGeneric] = names;
      const summer = isSummer(timeZone, time, offset);
      const name = {
        long: (summer && longSummer) || (summer && long ? '' : long),
        short: (summer && shortSummer) || (summer && short ? '' : short),
        longGeneric,
        shortGeneric,
      }[style];
      if (name) return name;
    }
  }
  return offsetText(offset, isLong);
}

const zoneIndexes = new WeakMap();

function zoneNamesOf(data, timeZone) {
  let index = zoneIndexes.get(data);
  if (index === undefined) {
    index = new Map();
    for (const [names, zones] of Object.entries(data.zones ?? {})) {
      for (const zone of zones.split(' ')) index.set(zone, names).set(zoneTarget(zone), names);
    }
    zoneIndexes.set(data, index);
  }
  return (index.get(timeZone) ?? index.get(zoneTarget(timeZone)))?.split('|');
}

/** Returns whether a zone is ahead of its standard time. */
function isSummer(timeZone, time, offset) {
  const year = new Date(time).getUTCFullYear();
  const standard = Math.min(
    offsetAt(timeZone, Date.UTC(year, 0, 1)),
    offsetAt(timeZone, Date.UTC(year, 6, 1)),
  );
  return offset > standard;
}

function offsetText(offset, isLong) {
  if (offset === 0) return 'GMT';
  const total = Math.floor(Math.abs(offset) / 60);
  const hours = Math.floor(total / 60);
  const minutes = total % 60;
  const sign = offset < 0 ? '-' : '+';
  if (isLong) return `GMT${sign}${padded(hours, 2)}:${padded(minutes, 2)}`;
  return `GMT${sign}${hours}${minutes === 0 ? '' : `:${padded(minutes, 2)}`}`;
}

export const DateTimeFormat = callable(intlClass(Format, 'DateTimeFormat'), 'DateTimeFormat');

/** Formats a date for the methods of `Date`. */
export function dateText(date, locales, options, required, defaults) {
  const time = Date.prototype.getTime.call(date);
  return Number.isNaN(time)
    ? 'Invalid Date'
    : cachedFormat(locales, options, required, defaults).format(time);
}

let lastFormat;

function cachedFormat(locales, options, required, defaults) {
  // Programs format many dates without options.
  const isPlain = options === undefined && (locales === undefined || typeof locales === 'string');
  const key = isPlain ? `${locales} ${required} ${defaults}` : undefined;
  if (isPlain && lastFormat?.key === key) return lastFormat.format;
  const format = new Format(locales, options, required, defaults);
  if (isPlain) lastFormat = { key, format };
  return format;
}
