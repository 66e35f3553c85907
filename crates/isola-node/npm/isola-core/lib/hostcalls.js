'use strict';

// Hostcalls: a guest asks, a function of the user answers.

const { fromJson, toJson } = require('./json');

/**
 * The callback of the native part for these handlers. It never throws: what
 * goes wrong fails that one hostcall.
 *
 * @param {Map<string, Function>} handlers
 * @param {boolean} bigints
 */
function answerHostcalls(handlers, bigints) {
  return async (name, payload, reply) => {
    try {
      const handler = handlers.get(name);
      const result = await handler(fromJson(payload, bigints));
      // A function that returns nothing has no more to say than `null`.
      reply.answer(result === undefined ? 'null' : toJson(result, `the result of ${name}`));
    } catch (error) {
      reply.fail(messageOf(error));
    }
  };
}

/** What the guest is told of an error: its message, and no stack or cause. */
function messageOf(error) {
  try {
    return error instanceof Error ? error.message || error.name : String(error);
  } catch {
    return 'the handler failed';
  }
}

module.exports = { answerHostcalls, messageOf };
