// Unhandled rejected promises. The engine has an internal `Set` of them without an
// interface to it; `build.mjs` finds it in the engine's memory by the promise that it
// contains, and stores it in the slot here.

import { apply, getOwnPropertyDescriptor, uncurry } from './intrinsics.js';

const { clear, forEach } = Set.prototype;
const size = uncurry(getOwnPropertyDescriptor(Set.prototype, 'size').get);

// A unique pattern of numbers: [mark, promise, mark, slot, mark].
const MARK = Number.MIN_VALUE * 0x15014;
const slots = [];
slots[0] = MARK;
slots[1] = Promise.reject(MARK);
slots[2] = MARK;
slots[3] = MARK;
slots[4] = MARK;

/** Returns whether there are any now; a handler may still be added. */
export function unhandled() {
  // While the guest is built, the slot contains the mark.
  return slots[3] !== MARK && size(slots[3]) > 0;
}

/** Removes all of them. */
export function forgetUnhandled() {
  apply(clear, slots[3], []);
}

/** Returns a promise of the reason of the earliest one. */
export async function takeReason() {
  let first;
  apply(forEach, slots[3], [
    (promise) => {
      first ??= promise;
    },
  ]);
  try {
    await first;
  } catch (reason) {
    return reason;
  }
  return undefined;
}
