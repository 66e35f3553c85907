// A single engine timer, the pump, drives all pending operations: hostcalls,
// requests and timers.
//
//            begin()                      end(), or a failure
//   idle ─────────────▶ running ───────────────────────────────▶ idle
//                        │   ▲
//        wait()          ▼   │ the pump fires: take completions,
//                     pump armed   run one timer, arm again
//
// The engine aborts the guest when a promise is pending and it has no task
// left, so the pump stays armed while a call waits. The host fires it early
// when a hostcall has completed, and also when nothing could ever become ready:
// then the call fails instead of hanging.
//
// When the pump runs, the microtasks of the previous turn have run: a promise
// that was rejected and has no handler by then fails the call. If nothing else
// fires the pump soon after a turn, it fires itself once to check for that.

import * as host from 'isola:sandbox/host@0.1.0';
import { define, floor, microtask, now, SafeError, whenSettled } from './intrinsics.js';
import { forgetUnhandled, takeReason, unhandled } from './rejections.js';

const startEngineTimer = globalThis.setTimeout;
const stopEngineTimer = globalThis.clearTimeout;
// The maximum delay of an engine timer in milliseconds, which is a 32-bit integer.
const MAX_DELAY_MS = 2 ** 31 - 1;
// The number of wake-ups without progress after which the call fails. An engine task
// that is ready at the same time runs in between.
const MAX_IDLE_ROUNDS = 3;
// The number of microtasks to wait for the end of a call before the pump is armed.
const MICROTASKS_BEFORE_ARMING = 10;
// The delay after a turn until the pump checks for rejected promises, in milliseconds.
const REJECTION_CHECK_MS = 5;

let running = false;
let waiting = false;
let fail = null;
// An uncaught error that occurred before `onFailure` was called.
let early = null;
// The callback of `whenDrained`.
let drained = null;
let idleRounds = 0;
let rejectionCheckAt = Infinity;

let pumpTimer = 0;
let pumpDeadline = Infinity;
let pumpWakes = false;

/** The sources that the pump drives; each registers itself while the guest is built. */
let hostcalls = null;
let timers = null;

export function serve(sources) {
  if (sources.hostcalls) hostcalls = sources.hostcalls;
  if (sources.timers) timers = sources.timers;
}

export function isRunning() {
  return running;
}

/** Starts a call: from now on user code may start hostcalls and timers. */
export function begin() {
  // Rejections that microtasks of an earlier call left must not fail this call.
  if (unhandled()) forgetUnhandled();
  running = true;
}

/** Sets the callback for errors that no user code can catch. */
export function onFailure(callback) {
  fail = callback;
  if (early !== null) fail(early.error);
}

/** Fails the call with an uncaught error of a callback that the runner called. */
export function uncaught(error) {
  if (fail !== null) fail(error);
  else if (running) early ??= { error };
}

/** Waits for the promise of the call: keeps the engine busy until `end`. */
export function wait() {
  waiting = true;
  idleRounds = 0;
  rejectionCheckAt = now() + REJECTION_CHECK_MS;
  arm();
}

/** Calls back when the microtasks have run, unless a rejected promise is left. */
export function whenDrained(callback) {
  drained = callback;
  arm();
}

/** Ends the call: drops its timers and abandons its hostcalls. */
export function end() {
  running = false;
  waiting = false;
  fail = null;
  early = null;
  drained = null;
  if (pumpTimer !== 0) disarm();
  timers.drop();
  hostcalls.drop();
}

/** Called whenever a hostcall or a timer was added. */
export function arm() {
  if (!waiting) return;
  const next = timers.nextDeadline();
  // Without a timer of the script, the host also wakes the pump on a deadlock.
  const wakes = next === Infinity || hostcalls.pending() > 0;
  let deadline = next < rejectionCheckAt ? next : rejectionCheckAt;
  if (drained !== null || unhandled()) deadline = 0;
  if (pumpTimer !== 0) {
    if (pumpDeadline === deadline && pumpWakes === wakes) return;
    disarm();
  }
  let delay = MAX_DELAY_MS;
  if (deadline !== Infinity) {
    delay = floor(deadline - now()) + 1;
    if (delay < 0) delay = 0;
    else if (delay > MAX_DELAY_MS) delay = MAX_DELAY_MS;
  }
  if (wakes) host.wakeNextTimer();
  pumpTimer = startEngineTimer(onPump, delay);
  pumpDeadline = deadline;
  pumpWakes = wakes;
}

/** Returns the error for code that the host interrupts while it waits. */
function interruption() {
  const error = new SafeError('the code was interrupted');
  define(error, 'name', 'InterruptedError', false);
  return error;
}

function disarm() {
  stopEngineTimer(pumpTimer);
  pumpTimer = 0;
}

// The engine does not support changes of its task list while a task runs, so
// user code runs in a microtask, after the task.
function onPump() {
  pumpTimer = 0;
  microtask(pump);
}

function pump() {
  if (!waiting) return;
  if (host.interrupted()) {
    fail(interruption());
    return;
  }
  if (unhandled()) {
    // The call ends with it, so the pump need not be armed again.
    whenSettled(takeReason(), fail, fail);
    return;
  }
  if (drained !== null) {
    drained();
    return;
  }
  let progress = false;
  if (hostcalls.pending() > 0) progress = hostcalls.settle(host.completions());
  let ran = progress;
  if (timers.nextDeadline() !== Infinity) {
    // While a timer is set, the call is not deadlocked.
    idleRounds = 0;
    try {
      ran = timers.runDue() || progress;
    } catch (error) {
      fail(error);
      return;
    }
  } else if (progress || hostcalls.pending() > 0) {
    idleRounds = 0;
  } else if (++idleRounds >= MAX_IDLE_ROUNDS) {
    fail(new SafeError('the promise can never settle: no hostcall, timer or request is pending'));
    return;
  }
  rejectionCheckAt = ran ? now() + REJECTION_CHECK_MS : Infinity;
  armLater(MICROTASKS_BEFORE_ARMING);
}

// The settled promises may be all that the call waits for: then the pump need not be
// armed, which takes longer than a few microtasks.
function armLater(rounds) {
  if (!waiting || pumpTimer !== 0) return;
  if (rounds === 0) arm();
  else microtask(() => armLater(rounds - 1));
}
