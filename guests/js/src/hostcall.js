// `hostcall(callType, payload)`: calls a function of the host.

import * as host from 'isola:sandbox/host@0.1.0';
import { define, SafeTypeError } from './intrinsics.js';
import { ofKind } from './kinds.js';
import { completion, start } from './pending.js';
import { fromJson, toJson } from './values.js';

/** The error of a failed hostcall. The message is the host's. */
class HostcallError extends Error {}
define(HostcallError.prototype, 'name', 'HostcallError', false);

function hostcallError(message) {
  return ofKind('hostcall', new HostcallError(message));
}

async function hostcall(callType, payload) {
  if (typeof callType !== 'string')
    throw new SafeTypeError('hostcall: the call type must be a string');
  const json = toJson(payload);
  const outcome = await completion(start((id) => host.hostcall(id, callType, json), hostcallError));
  if (outcome.tag === 'failed') throw hostcallError(outcome.val);
  try {
    return fromJson(outcome.val);
  } catch {
    throw hostcallError(`the result of ${callType} is not JSON`);
  }
}

export function installHostcall(global) {
  define(global, 'hostcall', hostcall, false);
  define(global, 'HostcallError', HostcallError, false);
}
