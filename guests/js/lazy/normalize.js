// `String.prototype.normalize`, by the definitions of the Unicode Standard, section 3.11.

import { numbersOf } from './sets.js';

const L_BASE = 0x1100;
const V_BASE = 0x1161;
const T_BASE = 0x11a7;
const S_BASE = 0xac00;
const L_COUNT = 19;
const V_COUNT = 21;
const T_COUNT = 28;
const S_COUNT = L_COUNT * V_COUNT * T_COUNT;

let canonical;
let compatible;
let classes;
let composites;

function readDecompositions(name) {
  const map = new Map();
  const numbers = numbersOf(name);
  let point = 0;
  for (let i = 0; i < numbers.length;) {
    point += numbers[i];
    const end = i + 2 + numbers[i + 1];
    map.set(point, numbers.slice(i + 2, end));
    i = end;
  }
  return map;
}

function prepare() {
  canonical = readDecompositions('n:canonical');
  classes = new Map();
  const ranked = numbersOf('n:classes');
  for (let i = 0, point = 0; i < ranked.length; i += 2)
    classes.set((point += ranked[i]), ranked[i + 1]);
  const excluded = new Set();
  let last = 0;
  for (const distance of numbersOf('n:exclusions')) excluded.add((last += distance));
  // The table has full decompositions: all but the last character may be a composite.
  composites = new Map();
  // The shorter ones first. Plain loops: destructuring is slow in this engine.
  const longer = [];
  canonical.forEach((points, point) => {
    if (excluded.has(point)) return;
    if (points.length === 2) composites.set(points[0] * 0x110000 + points[1], point);
    else longer.push({ point, points });
  });
  longer.sort((a, b) => a.points.length - b.points.length);
  for (let i = 0; i < longer.length; i++) {
    const { point, points } = longer[i];
    const before = compose(points.slice(0, -1));
    composites.set(before[0] * 0x110000 + points[points.length - 1], point);
  }
}

/** Returns the normalization of a string in one of the four forms. */
export function normalize(string, form) {
  if (canonical === undefined) prepare();
  const compatibility = form === 'NFKC' || form === 'NFKD';
  if (compatibility && compatible === undefined) compatible = readDecompositions('n:compatibility');
  const points = decompose(string, compatibility);
  const result = form === 'NFC' || form === 'NFKC' ? compose(points) : points;
  let text = '';
  // A string of many small parts is expensive to read.
  for (let i = 0; i < result.length; i += 4096)
    text += String.fromCodePoint(...result.slice(i, i + 4096));
  return text;
}

function decompose(string, compatibility) {
  const points = [];
  // The marks since the last starter, which are to be sorted.
  let start = -1;
  const add = (point) => {
    const rank = point < 0x300 ? undefined : classes.get(point);
    if (rank === undefined) {
      if (start >= 0) sortMarks(points, start);
      start = -1;
    } else if (start < 0) start = points.length;
    points.push(point);
  };
  for (let i = 0; i < string.length; i++) {
    const point = string.codePointAt(i);
    if (point > 0xffff) i++;
    if (point < 0xa0) {
      add(point);
      continue;
    }
    const syllable = point - S_BASE;
    if (syllable >= 0 && syllable < S_COUNT) {
      add(L_BASE + Math.floor(syllable / (V_COUNT * T_COUNT)));
      add(V_BASE + Math.floor((syllable % (V_COUNT * T_COUNT)) / T_COUNT));
      if (syllable % T_COUNT > 0) add(T_BASE + (syllable % T_COUNT));
      continue;
    }
    const parts = (compatibility ? compatible.get(point) : undefined) ?? canonical.get(point);
    if (parts === undefined) add(point);
    else for (const part of parts) add(part);
  }
  if (start >= 0) sortMarks(points, start);
  return points;
}

function sortMarks(points, start) {
  if (points.length - start < 2) return;
  const marks = points.slice(start).sort((a, b) => classes.get(a) - classes.get(b));
  for (let i = 0; i < marks.length; i++) points[start + i] = marks[i];
}

function compose(points) {
  const result = [];
  let starter = -1;
  let lastRank = 0;
  for (const point of points) {
    const rank = point < 0x300 ? 0 : (classes.get(point) ?? 0);
    const isBlocked = lastRank !== 0 && lastRank >= rank;
    if (starter >= 0 && !isBlocked && (lastRank !== 0 || starter === result.length - 1)) {
      const composite = composed(result[starter], point);
      if (composite !== undefined) {
        result[starter] = composite;
        continue;
      }
    }
    if (rank === 0) starter = result.length;
    lastRank = rank;
    result.push(point);
  }
  return result;
}

function composed(first, second) {
  const l = first - L_BASE;
  const v = second - V_BASE;
  if (l >= 0 && l < L_COUNT && v >= 0 && v < V_COUNT) return S_BASE + (l * V_COUNT + v) * T_COUNT;
  const syllable = first - S_BASE;
  const t = second - T_BASE;
  if (syllable >= 0 && syllable < S_COUNT && syllable % T_COUNT === 0 && t > 0 && t < T_COUNT)
    return first + t;
  return composites.get(first * 0x110000 + second);
}
