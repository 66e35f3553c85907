// Non-negative numbers as text: digits of five bits, the lowest first, each with a bit
// that tells whether another one follows. No digit is a backslash or a quote.

const FIRST = 48;
const BACKSLASH = 92;

export function encodeNumbers(numbers) {
  let text = '';
  for (let value of numbers) {
    do {
      const rest = value >> 5;
      const digit = FIRST + (value & 31) + (rest > 0 ? 32 : 0);
      text += String.fromCharCode(digit < BACKSLASH ? digit : digit + 1);
      value = rest;
    } while (value > 0);
  }
  return text;
}

/** Returns the numbers that `text` has from one index to another. */
export function decodeNumbers(text, from = 0, to = text.length) {
  const numbers = [];
  let value = 0;
  let shift = 0;
  for (let i = from; i < to; i++) {
    const code = text.charCodeAt(i);
    const digit = (code < BACKSLASH ? code : code - 1) - FIRST;
    value |= (digit & 31) << shift;
    if (digit >= 32) {
      shift += 5;
    } else {
      numbers.push(value);
      value = 0;
      shift = 0;
    }
  }
  return numbers;
}
