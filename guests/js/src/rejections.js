// Rejected promises that nobody handles. The engine keeps a `Set` of them for
// its own use and offers no way to it; `build.mjs` finds it in the engine's
// memory by the promise that is in it, and puts it into the slot here.

import { apply, getOwnPropertyDescriptor, uncurry } from './intrinsics.js';

const { clear, forEach } = Set.prototype;
const size = uncurry(getOwnPropertyDescriptor(Set.prototype, 'size').get);

// A pattern of numbers that is nowhere else: [mark, promise, mark, slot, mark].
const MARK = Number.MIN_VALUE * 0x15014;
const slots = [];
slots[0] = MARK;
slots[1] = Promise.reject(MARK);
slots[2] = MARK;
slots[3] = MARK;
slots[4] = MARK;

/** Whether there are any at this moment; a handler may still come. */
export function unhandled() {
  // While the guest is built, there is only the mark.
  return slots[3] !== MARK && size(slots[3]) > 0;
}

/** Forgets them all. */
export function forgetUnhandled() {
  apply(clear, slots[3], []);
}

/** Takes the reason of the earliest one: a promise of it. */
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
