// Pending operations of a call at the host: hostcalls and requests. Each has a
// number, and waits for one completion at a time; a request with a streamed body
// also waits for `taken`.

import * as host from 'isola:sandbox/host@0.1.0';
import { safeMap, SafeNumber, SafePromise } from './intrinsics.js';
import * as loop from './loop.js';

// Maps a number to the resolver of the promise of the next completion.
const waiting = safeMap();
// Maps a number to the resolver of the promise of whether a chunk was accepted.
const writing = safeMap();
// The numbers of operations that have not ended.
const open = safeMap();
let lastId = 0;

/** Outcomes after which others may follow. */
const CONTINUES = { __proto__: null, response: true, chunk: true };

/**
 * Starts an operation: `begin` is called with its number. If the host refuses it, the
 * error that `refused` creates from the reason is thrown.
 */
export function start(begin, refused) {
  if (!loop.isRunning()) throw refused('the call that this code belongs to has ended');
  const id = ++lastId;
  send(() => begin(id), refused);
  open.set(id, true);
  return id;
}

/** Sends a command about a pending operation to the host. */
export function send(command, refused) {
  try {
    command();
  } catch (error) {
    throw refused(error.payload ?? error.message);
  }
}

/** Returns a promise of the next completion: an outcome of the contract. */
export function completion(id) {
  return new SafePromise((resolve) => {
    waiting.set(id, resolve);
    if (waiting.size === 1) loop.arm();
  });
}

/** Sends a chunk of a request's body. Returns a promise of whether more is accepted. */
export function write(id, chunk, refused) {
  if (!open.has(id)) return false;
  send(() => host.write(id, chunk), refused);
  return new SafePromise((resolve) => {
    writing.set(id, resolve);
    loop.arm();
  });
}

/** Ends a request's body, unless the request has ended. */
export function finish(id, refused) {
  if (open.has(id)) send(() => host.finish(id), refused);
}

/** Stops an operation, if it has not ended. Its promise remains pending. */
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
