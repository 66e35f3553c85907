// What a call has under way at the host: hostcalls and requests. Each has a
// number, and waits for one piece of news at a time; a request's body that goes
// out in pieces waits for `taken` beside it.

import * as host from 'isola:sandbox/host@0.1.0';
import { safeMap, SafeNumber, SafePromise } from './intrinsics.js';
import * as loop from './loop.js';

// Number -> what resolves the promise of the next news.
const waiting = safeMap();
// Number -> what resolves the promise of whether a piece was taken.
const writing = safeMap();
// Numbers that the host still works on.
const open = safeMap();
let lastId = 0;

/** Outcomes that more may follow. */
const CONTINUES = { __proto__: null, response: true, chunk: true };

/**
 * Starts something: `begin` is given its number. A refusal of the host is
 * thrown as what `refused` makes of the reason.
 */
export function start(begin, refused) {
  if (!loop.isRunning()) throw refused('the call that this code belongs to has ended');
  const id = ++lastId;
  tell(() => begin(id), refused);
  open.set(id, true);
  return id;
}

/** Tells the host something about what is under way. */
export function tell(command, refused) {
  try {
    command();
  } catch (error) {
    throw refused(error.payload ?? error.message);
  }
}

/** The promise of the next news: an outcome of the contract. */
export function news(id) {
  return new SafePromise((resolve) => {
    waiting.set(id, resolve);
    if (waiting.size === 1) loop.arm();
  });
}

/** Sends a piece of a request's body: a promise of whether more is wanted. */
export function write(id, piece, refused) {
  if (!open.has(id)) return false;
  tell(() => host.write(id, piece), refused);
  return new SafePromise((resolve) => {
    writing.set(id, resolve);
    loop.arm();
  });
}

/** Says that a request's body is complete, unless the request is over. */
export function finish(id, refused) {
  if (open.has(id)) tell(() => host.finish(id), refused);
}

/** Stops something, if it is not over. Its promise stays as it is. */
export function abandon(id) {
  if (!open.delete(id)) return;
  waiting.delete(id);
  written(id, false);
  host.abandon(id);
}

function written(id, more) {
  const resolve = writing.get(id);
  if (resolve === undefined) return;
  writing.delete(id);
  resolve(more);
}

function settle(completions) {
  for (let i = 0; i < completions.length; i++) {
    const { outcome } = completions[i];
    const id = SafeNumber(completions[i].id);
    if (outcome.tag === 'taken') {
      written(id, outcome.val);
      continue;
    }
    if (CONTINUES[outcome.tag] !== true || outcome.val.complete === true) {
      open.delete(id);
      written(id, false);
    }
    const resolve = waiting.get(id);
    waiting.delete(id);
    if (resolve !== undefined) resolve(outcome);
  }
  return completions.length > 0;
}

function drop() {
  waiting.clear();
  writing.clear();
  if (open.size === 0) return;
  open.forEach((_, id) => host.abandon(id));
  open.clear();
}

loop.serve({ hostcalls: { settle, drop, pending: () => waiting.size + writing.size } });
