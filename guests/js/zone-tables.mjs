// Writes the table of time zones from the data of moment-timezone: a line for each zone or
// other name.
//
//   Name=offsets|index of each offset|times of change|rules
//   Alias>Name
//
// Offsets are quarters of an hour, or seconds; times are in seconds, by their differences.
// Where a zone has followed the same two yearly rules until now, only the rules are kept.

import { createRequire } from 'node:module';
import { join } from 'node:path';

import { ruleTime, rulesOf } from './lazy/intl/zone-rules.js';
import { encodeNumbers } from './lazy/numbers.js';

const LAST_YEAR = 2037;

export function zoneTable(tools) {
  const require = createRequire(join(tools, 'package.json'));
  const { zones, links } = require('moment-timezone/data/packed/latest.json');
  const unpacked = zones.map(unpack);
  const gaps = [...new Set(unpacked.flatMap(({ times }) => differences(times)))];
  const counts = new Map(gaps.map((gap) => [gap, 0]));
  for (const { times } of unpacked)
    for (const gap of differences(times)) counts.set(gap, counts.get(gap) + 1);
  gaps.sort((a, b) => counts.get(b) - counts.get(a) || a - b);
  const indexes = new Map(gaps.map((gap, i) => [gap, i]));
  const lines = unpacked.map(({ name, offsets, steps, times, rules }) =>
    [
      `${name}=${encodeNumbers(offsets.map(zigzag))}`,
      encodeNumbers(steps),
      encodeNumbers(differences(times).map((gap) => indexes.get(gap))),
      encodeNumbers(rules.flat()),
    ].join('|'),
  );
  for (const link of links) {
    const [name, alias] = link.split('|');
    lines.push(`${alias}>${name}`);
  }
  return `\n${lines.sort().join('\n')}\n*=${encodeSigned(gaps)}\n`;
}

const zigzag = (value) => (value < 0 ? -2 * value - 1 : 2 * value);
const differences = (times) => times.map((time, i) => (i === 0 ? time : time - times[i - 1]));

// A difference may have more than 31 bits.
const encodeSigned = (values) =>
  encodeNumbers(
    values.flatMap((value) => [
      value < 0 ? 1 : 0,
      Math.floor(Math.abs(value) / 65536),
      Math.abs(value) % 65536,
    ]),
  );

function unpack(packed) {
  const [name, , offsetTexts, stepTexts, untilTexts] = packed.split('|');
  // West is positive there, and the unit is a minute.
  const all = offsetTexts.split(' ').map((text) => -Math.round(sixty(text) * 60));
  const steps = [...stepTexts].map((digit) => all[sixty(digit)]);
  const times = [];
  let time = 0;
  for (const text of untilTexts.split(' ').filter(Boolean))
    times.push((time += Math.round(sixty(text) * 60)));
  // The last step has no end.
  const last = Date.UTC(LAST_YEAR + 1, 0, 1) / 1000;
  const kept = times.filter((time, i) => time < last && i + 1 < steps.length);
  const series = [steps[0]];
  const changes = [];
  kept.forEach((time, i) => {
    if (steps[i + 1] === series.at(-1)) return;
    changes.push(time);
    series.push(steps[i + 1]);
  });
  const rules = findRules(changes, series);
  const offsets = [...new Set(series.concat(rules.flatMap((rule) => [rule.offset])))];
  return {
    name,
    offsets,
    steps: series.map((offset) => offsets.indexOf(offset)),
    times: changes,
    rules: rules.map(({ rule, offset }) => [...rule, offsets.indexOf(offset)]),
  };
}

/** Finds the yearly rules of the end, and removes what they describe, but for one year. */
function findRules(changes, series) {
  const yearOf = (time) => new Date(time * 1000).getUTCFullYear();
  const count = changes.length;
  if (count < 4 || yearOf(changes[count - 1]) < LAST_YEAR) return [];
  const pair = [count - 2, count - 1].map((i) => ({
    rules: rulesOf(changes[i], series[i]),
    before: series[i],
    offset: series[i + 1],
  }));
  let best;
  for (const first of pair[0].rules) {
    for (const second of pair[1].rules) {
      let from = count;
      for (let i = count - 1; i >= 0; i--) {
        const which = (count - 1 - i) % 2 === 0 ? 1 : 0;
        const rule = which === 1 ? second : first;
        const { before, offset } = pair[which];
        if (series[i] !== before || series[i + 1] !== offset) break;
        if (ruleTime(rule, yearOf(changes[i] + before), before) !== changes[i]) break;
        from = i;
      }
      if (best === undefined || from < best.from) best = { from, rules: [first, second] };
    }
  }
  if (count - best.from < 8) return [];
  // The first rule of a year comes first.
  if ((count - best.from) % 2 === 1) best.from++;
  changes.length = best.from + 2;
  series.length = best.from + 3;
  return best.rules.map((rule, i) => ({ rule, offset: pair[i].offset }));
}

const DIGITS = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX';

function sixty(text) {
  const [, sign, whole, fraction = ''] = /^(-?)([^.]*)\.?(.*)$/.exec(text);
  let value = 0;
  for (const digit of whole) value = value * 60 + DIGITS.indexOf(digit);
  [...fraction].forEach((digit, i) => (value += DIGITS.indexOf(digit) / 60 ** (i + 1)));
  return sign === '-' ? -value : value;
}
