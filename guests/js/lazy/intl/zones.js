// Time zones, from the table of `zone-tables.mjs`.

import { decodeNumbers } from '../numbers.js';
import { ruleTime } from './zone-rules.js';

let table = '';
let gaps;
const zones = new Map();

export function useZones(text) {
  table = text;
}

const OTHER_NAMES = /^(?:Etc|US|Canada|Brazil|Chile|Mexico)\//;

/** Returns the names of all zones. */
export function zoneNames() {
  return table
    .split('\n')
    .map((line) => /^[^=>|]+(?=[=>])/.exec(line)?.[0] ?? '')
    .filter((name) => name === 'UTC' || (name.includes('/') && !OTHER_NAMES.test(name)));
}

/** Returns the zone of which a name is another name, or the name. */
export function zoneTarget(name) {
  const at = table.indexOf(`\n${name}>`);
  if (at < 0) return name;
  return table.slice(at + name.length + 2, table.indexOf('\n', at + 1));
}

/** Returns the name of a zone in its usual spelling, or undefined. */
export function zoneName(text) {
  const wanted = text.toLowerCase();
  if (wanted === 'utc' || wanted === 'gmt' || wanted === 'etc/utc' || wanted === 'etc/gmt')
    return 'UTC';
  const offset = /^([+-])([01]\d|2[0-3])(?::?([0-5]\d))?$/.exec(text);
  if (offset !== null)
    return `${offset[1]}${offset[2]}:${offset[3] ?? '00'}`.replace(/^-00:00$/, '+00:00');
  if (!/^[\w+/-]+$/.test(wanted)) return undefined;
  const found = new RegExp(`\\n(${wanted.replace(/\+/g, '\\+')})[=>]`, 'i').exec(table);
  return found === null ? undefined : found[1];
}

function load(name) {
  let zone = zones.get(name);
  if (zone !== undefined) return zone;
  const at = table.indexOf(`\n${name}`) + name.length + 1;
  const text = table.slice(at + 1, table.indexOf('\n', at));
  zone = table[at] === '>' ? load(text) : parse(text);
  zones.set(name, zone);
  return zone;
}

function parse(text) {
  if (gaps === undefined) {
    const at = table.indexOf('\n*=');
    const numbers = decodeNumbers(table, at + 3, table.indexOf('\n', at + 1));
    gaps = [];
    for (let i = 0; i < numbers.length; i += 3)
      gaps.push((numbers[i] === 1 ? -1 : 1) * (numbers[i + 1] * 65536 + numbers[i + 2]));
  }
  const [offsets, steps, times, rules] = text.split('|').map((part) => decodeNumbers(part));
  const seconds = offsets.map((value) => (value % 2 === 1 ? -(value + 1) / 2 : value / 2));
  let time = 0;
  return {
    offsets: steps.map((step) => seconds[step]),
    times: times.map((gap) => (time += gaps[gap])),
    rules:
      rules.length === 0
        ? undefined
        : [rules.slice(0, 4), rules.slice(5, 9)].map((rule, i) => ({
            rule,
            offset: seconds[rules[5 * i + 4]],
          })),
  };
}

/** Returns the seconds by which a zone is ahead of UTC at a time in milliseconds. */
export function offsetAt(name, milliseconds) {
  if (name === 'UTC') return 0;
  if (name[0] === '+' || name[0] === '-') {
    const minutes = Number(name.slice(1, 3)) * 60 + Number(name.slice(4));
    return (name[0] === '-' ? -60 : 60) * minutes;
  }
  const { offsets, times, rules } = load(name);
  const time = milliseconds / 1000;
  if (rules !== undefined && time >= times[times.length - 1]) return byRules(rules, time);
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return offsets[low];
}

function byRules([first, second], time) {
  const year = new Date((time + first.offset) * 1000).getUTCFullYear();
  const start = ruleTime(first.rule, year, second.offset);
  const end = ruleTime(second.rule, year, first.offset);
  return time >= start && time < end ? first.offset : second.offset;
}
