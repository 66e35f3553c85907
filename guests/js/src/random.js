// `Math.random`, based on random numbers of the host.
//
// The engine's own generator has its state in memory, so that copies of an
// interpreter would continue with the same numbers, even in references to the
// function that a script stored earlier.

import { apply, define } from './intrinsics.js';

/** The number of random numbers that are requested from the host at once. */
const BATCH = 128;

const source = crypto;
const { getRandomValues } = source;
const words = new Uint32Array(2 * BATCH);
let left = 0;

export function installRandom() {
  define(Math, 'random', random, false);
}

/** Discards the numbers that were requested and not used. */
export function forgetRandom() {
  left = 0;
}

const { random } = {
  random() {
    if (left === 0) {
      apply(getRandomValues, source, [words]);
      left = BATCH;
    }
    left--;
    // 53 bits, the precision of a number.
    return ((words[2 * left] >>> 5) * 67108864 + (words[2 * left + 1] >>> 6)) / 9007199254740992;
  },
};
