// One engine timer, the pump, drives everything that user code waits for:
// hostcalls, requests and timers.
//
//            begin()                      end(), or a failure
//   idle ─────────────▶ running ───────────────────────────────▶ idle
//                        │   ▲
//        wait()          ▼   │ the pump fires: take completions,
//                     pump armed   run one timer, arm again
//
// The engine aborts the guest when a promise is pending and it has no task
// left, so the pump stays armed while a call waits. The host fires it early
// when a hostcall has ended, and also when nothing could ever become ready:
// then the call fails instead of hanging.
//
// When the pump runs, the microtasks of the turn before it are done: a promise
// that was rejected and has no handler by then fails the call. If nothing else
// fires the pump soon after a turn, it fires itself once to see to that.

import * as host from 'isola:sandbox/host@0.1.0';
import { floor, microtask, now, SafeError, whenSettled } from './intrinsics.js';
import { forgetUnhandled, takeReason, unhandled } from './rejections.js';

const startEngineTimer = globalThis.setTimeout;
const stopEngineTimer = globalThis.clearTimeout;
// The engine keeps delays in 32 bits.
const LONGEST_DELAY = 2 ** 31 - 1;
// Rounds in which the host woke the pump for nothing; an engine task that was
// ready at the same time gets its turn in between.
const IDLE_ROUNDS = 3;
// How many microtasks the end of a call may take after its last news.
const PATIENCE = 10;
// How long after a turn the pump looks for rejected promises, in milliseconds.
const LOOK_AROUND = 5;

let running = false;
let waiting = false;
let fail = null;
// An error that came before anybody could be told.
let early = null;
// Wants to know when the microtasks are done.
let drained = null;
let idleRounds = 0;
let lookAt = Infinity;

let pumpTimer = 0;
let pumpDeadline = Infinity;
let pumpWakes = false;

/** What the pump serves; each source registers itself while the guest is built. */
let hostcalls = null;
let timers = null;

export function serve(sources) {
  if (sources.hostcalls) hostcalls = sources.hostcalls;
  if (sources.timers) timers = sources.timers;
}

export function isRunning() {
  return running;
}

/** Opens a call: from here on user code may start hostcalls and timers. */
export function begin() {
  // What the microtasks of an earlier call left is not this call's fault.
  if (unhandled()) forgetUnhandled();
  running = true;
}

/** Who is told when something fails that nobody in user code can catch. */
export function onFailure(callback) {
  fail = callback;
  if (early !== null) fail(early.error);
}

/** An error left a callback that the runner called: the call fails. */
export function uncaught(error) {
  if (fail !== null) fail(error);
  else if (running) early ??= { error };
}

/** The call waits for its promise: keeps the engine busy until `end`. */
export function wait() {
  waiting = true;
  idleRounds = 0;
  lookAt = now() + LOOK_AROUND;
  arm();
}

/** Calls back when the microtasks are done, unless a rejected promise is left. */
export function whenDrained(callback) {
  drained = callback;
  arm();
}

/** Closes the call: drops its timers and abandons its hostcalls. */
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
  // Without a timer of the script's the host also tells when all hope is gone.
  const wakes = next === Infinity || hostcalls.pending() > 0;
  let deadline = next < lookAt ? next : lookAt;
  if (drained !== null || unhandled()) deadline = 0;
  if (pumpTimer !== 0) {
    if (pumpDeadline === deadline && pumpWakes === wakes) return;
    disarm();
  }
  let delay = LONGEST_DELAY;
  if (deadline !== Infinity) {
    delay = floor(deadline - now()) + 1;
    if (delay < 0) delay = 0;
    else if (delay > LONGEST_DELAY) delay = LONGEST_DELAY;
  }
  if (wakes) host.wakeNextTimer();
  pumpTimer = startEngineTimer(onPump, delay);
  pumpDeadline = deadline;
  pumpWakes = wakes;
}

function disarm() {
  stopEngineTimer(pumpTimer);
  pumpTimer = 0;
}

// The engine does not expect its task list to change while a task runs, so
// user code runs in a microtask, after the task.
function onPump() {
  pumpTimer = 0;
  microtask(pump);
}

function pump() {
  if (!waiting) return;
  if (unhandled()) {
    // The call ends with it, so nothing has to be armed again.
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
    // While a timer is set, there is hope.
    idleRounds = 0;
    try {
      ran = timers.runDue() || progress;
    } catch (error) {
      fail(error);
      return;
    }
  } else if (progress || hostcalls.pending() > 0) {
    idleRounds = 0;
  } else if (++idleRounds >= IDLE_ROUNDS) {
    fail(new SafeError('the promise can never settle: no hostcall, timer or request is pending'));
    return;
  }
  lookAt = ran ? now() + LOOK_AROUND : Infinity;
  armLater(PATIENCE);
}

// What was settled may be all that the call waits for: then the pump need not
// be armed, which takes longer than some microtasks.
function armLater(rounds) {
  if (!waiting || pumpTimer !== 0) return;
  if (rounds === 0) arm();
  else microtask(() => armLater(rounds - 1));
}
