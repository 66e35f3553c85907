// `Math.random`, on random numbers of the host.
//
// The engine's own generator has its state in memory, so that interpreters that
// were copied from one would go on with the same numbers, also in functions
// that a script has taken long before.

import { apply, define } from './intrinsics.js';

/** So many numbers are taken from the host at once. */
const BATCH = 128;

const source = crypto;
const { getRandomValues } = source;
const words = new Uint32Array(2 * BATCH);
let left = 0;

export function installRandom() {
  define(Math, 'random', random, false);
}

/** Lets go of what was taken and not used. */
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
    // 53 bits, as many as a number holds.
    return ((words[2 * left] >>> 5) * 67108864 + (words[2 * left + 1] >>> 6)) / 9007199254740992;
  },
};
