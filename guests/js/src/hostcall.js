// `hostcall(callType, payload)`: calls a function of the host.

import * as host from 'isola:sandbox/host@0.1.0';
import { define, safeMap, SafeNumber, SafePromise, SafeTypeError } from './intrinsics.js';
import { ofKind } from './kinds.js';
import * as loop from './loop.js';
import { fromJson, toJson } from './values.js';

/** Why a hostcall failed: the message is the host's. */
class HostcallError extends Error {}
define(HostcallError.prototype, 'name', 'HostcallError', false);

function hostcallError(message) {
  return ofKind('hostcall', new HostcallError(message));
}

const pending = safeMap();
let lastId = 0;

function hostcall(callType, payload) {
  return new SafePromise((resolve, reject) => {
    if (typeof callType !== 'string') throw new SafeTypeError('hostcall: the call type must be a string');
    if (!loop.isRunning()) throw hostcallError('hostcall: the call that this code belongs to has ended');
    const json = toJson(payload);
    const id = ++lastId;
    try {
      host.hostcall(id, callType, json);
    } catch (error) {
      throw hostcallError(error.payload ?? error.message);
    }
    pending.set(id, { resolve, reject, callType });
    if (pending.size === 1) loop.arm();
  });
}

function settle(completions) {
  for (let i = 0; i < completions.length; i++) {
    const { id, outcome } = completions[i];
    const key = SafeNumber(id);
    const call = pending.get(key);
    if (call === undefined) continue;
    pending.delete(key);
    if (outcome.tag === 'err') {
      call.reject(hostcallError(outcome.val));
      continue;
    }
    let value;
    try {
      value = fromJson(outcome.val);
    } catch {
      call.reject(hostcallError(`the result of ${call.callType} is not JSON`));
      continue;
    }
    call.resolve(value);
  }
  return completions.length > 0;
}

function drop() {
  if (pending.size === 0) return;
  pending.forEach((_, id) => host.abandon(id));
  pending.clear();
}

loop.serve({ hostcalls: { settle, drop, pending: () => pending.size } });

export function installHostcall(global) {
  define(global, 'hostcall', hostcall, false);
  define(global, 'HostcallError', HostcallError, false);
}
