// Decimal numbers as digits: `{ negative, digits, exponent }` is 0.digits × 10^exponent.
// The digits neither begin nor end with a zero.

/** Returns the decimal of a number, a BigInt or a numeral, or its special value. */
export function decimalOf(value) {
  if (typeof value === 'object' && value !== null)
    value = value[Symbol.toPrimitive]?.('number') ?? primitive(value);
  if (typeof value === 'symbol') throw new TypeError('Cannot convert a Symbol value to a number');
  let text;
  if (typeof value === 'bigint') text = String(value);
  else if (typeof value === 'string') {
    text = value.trim();
    if (!/^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(text)) return ofNumber(Number(value));
  } else return ofNumber(Number(value));
  return parse(text);
}

function primitive(value) {
  const converted = value.valueOf();
  return typeof converted === 'object' ? String(value) : converted;
}

function ofNumber(number) {
  if (Number.isNaN(number)) return { nan: true, negative: false };
  if (!Number.isFinite(number)) return { infinite: true, negative: number < 0 };
  return Object.is(number, -0) ? { ...ZERO, negative: true } : parse(String(number));
}

const ZERO = { negative: false, digits: '', exponent: 0 };

function parse(text) {
  const [, sign, whole, fraction = '', power = '0'] =
    /^([+-]?)(\d*)\.?(\d*)(?:[eE]([+-]?\d+))?$/.exec(text);
  return normal(sign === '-', whole + fraction, whole.length + Number(power));
}

function normal(negative, digits, exponent) {
  const zeros = /^0*/.exec(digits)[0].length;
  const kept = digits.slice(zeros).replace(/0+$/, '');
  return kept === ''
    ? { ...ZERO, negative }
    : { negative, digits: kept, exponent: exponent - zeros };
}

/** Multiplies by a power of ten. */
export const scaled = (decimal, power) =>
  decimal.digits ? { ...decimal, exponent: decimal.exponent + power } : decimal;

/** Rounds to a multiple of `increment` × 10^-places. */
export function rounded(decimal, places, mode, increment = 1) {
  const { negative, digits, exponent } = decimal;
  const kept = exponent + places;
  if (increment === 1 && digits.length <= kept) return decimal;
  const padded = kept > 0 ? digits.padEnd(kept, '0') : '';
  let whole = BigInt(kept > 0 ? padded.slice(0, kept) : '0');
  let rest =
    kept >= 0
      ? padded.slice(kept) || (kept === 0 ? digits : '')
      : '0'.repeat(Math.min(-kept, 1)) + digits;
  if (kept > 0) rest = digits.slice(kept);
  const step = BigInt(increment);
  const remainder = whole % step;
  whole -= remainder;
  const isExact = remainder === 0n && /^0*$/.test(rest);
  if (isExact) return normal(negative, String(whole), String(whole).length - places);
  // Compares the rest with half a step.
  const twice = 2n * remainder;
  const half = twice > step ? 1 : twice < step - 1n ? -1 : halfOf(twice, step, rest);
  const isOdd = (whole / step) % 2n === 1n;
  if (roundsUp(mode, negative, half, isOdd)) whole += step;
  return normal(negative, String(whole), String(whole).length - places);
}

function halfOf(twice, step, rest) {
  if (twice === step) return /^0*$/.test(rest) ? 0 : 1;
  // One less than a step: the digits decide.
  const isHalf = /^50*$/.test(rest);
  return isHalf ? 0 : rest !== '' && rest[0] >= '5' ? 1 : -1;
}

function roundsUp(mode, negative, half, isOdd) {
  switch (mode) {
    case 'ceil':
      return !negative;
    case 'floor':
      return negative;
    case 'expand':
      return true;
    case 'trunc':
      return false;
    case 'halfCeil':
      return half > 0 || (half === 0 && !negative);
    case 'halfFloor':
      return half > 0 || (half === 0 && negative);
    case 'halfTrunc':
      return half > 0;
    case 'halfEven':
      return half > 0 || (half === 0 && isOdd);
    default:
      return half >= 0;
  }
}

/** Returns the digits before and after the point. */
export function digitsOf({ digits, exponent }) {
  if (exponent <= 0) return ['0', digits === '' ? '' : '0'.repeat(-exponent) + digits];
  return [digits.slice(0, exponent).padEnd(exponent, '0'), digits.slice(exponent)];
}
