// `performance.timeOrigin`: the engine's is that of the build.

import { now } from './intrinsics.js';

const wallClock = Date.now;
let timeOrigin;

/** What `Date.now() - performance.now()` is, from the first reading on. */
function origin() {
  timeOrigin ??= wallClock() - now();
  return timeOrigin;
}

/** Reads the clocks anew: this is another sandbox now. */
export function forgetTimeOrigin() {
  timeOrigin = undefined;
}

export function installTimeOrigin() {
  // On the object itself: the engine has it there, or on a prototype that is not the constructor's.
  Object.defineProperty(globalThis.performance, 'timeOrigin', {
    __proto__: null,
    get: origin,
    configurable: true,
    enumerable: true,
  });
}
