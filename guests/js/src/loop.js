// One engine timer, the pump, drives everything that user code waits for:
// hostcalls and timers. (Fetches are the engine's own tasks.)
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

import * as host from 'isola:sandbox/host@0.1.0';
import { floor, microtask, now, SafeError } from './intrinsics.js';

const startEngineTimer = globalThis.setTimeout;
const stopEngineTimer = globalThis.clearTimeout;
// The engine keeps delays in 32 bits.
const LONGEST_DELAY = 2 ** 31 - 1;
// Rounds in which the host woke the pump for nothing; an engine task that was
// ready at the same time gets its turn in between.
const IDLE_ROUNDS = 3;

let running = false;
let waiting = false;
let fail = null;
// An error that came before anybody could be told.
let early = null;
let idleRounds = 0;

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
  arm();
}

/** Closes the call: drops its timers and abandons its hostcalls. */
export function end() {
  running = false;
  waiting = false;
  fail = null;
  early = null;
  if (pumpTimer !== 0) disarm();
  timers.drop();
  hostcalls.drop();
}

/** Called whenever a hostcall or a timer was added. */
export function arm() {
  if (!waiting) return;
  const deadline = timers.nextDeadline();
  // Without a timer of the script's the host also tells when all hope is gone.
  const wakes = deadline === Infinity || hostcalls.pending() > 0;
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
  let progress = false;
  if (hostcalls.pending() > 0) progress = hostcalls.settle(host.completions());
  if (timers.nextDeadline() !== Infinity) {
    // While a timer is set, there is hope.
    idleRounds = 0;
    try {
      timers.runDue();
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
  arm();
}
