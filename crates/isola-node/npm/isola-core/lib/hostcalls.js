'use strict';

// Hostcalls: functions of the embedder that a guest can call.

const { fromJson, toJson } = require('./json');
const { HOSTCALL } = require('./stream-calls');

/**
 * Returns the callback that the native part calls for each hostcall. It never
 * throws: an error fails that one hostcall.
 *
 * @param {Map<string, Function>} handlers
 * @param {boolean} bigints
 * @param {import('./stream-calls').OpenStreams} streams
 */
function answerHostcalls(handlers, bigints, streams) {
  return async (name, payload, reply) => {
    try {
      if (name === HOSTCALL) {
        reply.answer(await streams.take(payload));
        return;
      }
      const handler = handlers.get(name);
      const result = await handler(fromJson(payload, bigints));
      // A handler that returns nothing has the result `null`.
      reply.answer(result === undefined ? 'null' : toJson(result, `the result of ${name}`));
    } catch (error) {
      reply.fail(messageOf(error));
    }
  };
}

/** Returns the text of an error for the guest: its message, without stack or cause. */
function messageOf(error) {
  try {
    return error instanceof Error ? error.message || error.name : String(error);
  } catch {
    return 'the handler failed';
  }
}

module.exports = { answerHostcalls, messageOf };
