'use strict';

// The host's side of calls with stream arguments. The guest's side, and how the two work
// together, is in `crates/isola/src/stream_calls.rs`.

const { invalid } = require('./errors');
const { fromJson } = require('./json');
const { callEnded } = require('./value-queue');

/** The hostcall that returns the next batch of a stream. */
const HOSTCALL = 'isola.stream';

/** The function in the guest that calls another one with its streams. */
const FUNCTION = '__isola_call__';

/** The maximum size of a batch with several values, in bytes. */
const MAX_BATCH_BYTES = 256 * 1024;

/**
 * Returns the call of `FUNCTION` that stands for a call with streams. The text of a
 * stream argument is that of its token.
 *
 * @param {string} name the function that the caller named
 * @param {{ values: string[], names: (string | null)[] }} args
 * @param {Set<number>} streams the positions of the stream arguments
 */
function wrap(name, { values, names }, streams) {
  const positional = [];
  const named = new Map();
  values.forEach((value, index) => {
    const marker = streams.has(index) ? `[1,${value}]` : `[0,${value}]`;
    if (names[index] === null) {
      positional.push(marker);
    } else {
      const key = JSON.stringify(names[index]);
      if (named.has(key)) throw invalid(`the argument ${key} is given twice`);
      named.set(key, marker);
    }
  });
  const entries = Array.from(named, ([key, marker]) => `${key}:${marker}`);
  return {
    name: FUNCTION,
    args: { values: [JSON.stringify(name), `[${positional}]`, `{${entries}}`] },
  };
}

/**
 * The streams of the running calls of a sandbox and its forks, which share their
 * handlers. The guest names a stream by its token, a random one: a fork must not be
 * able to guess that of another sandbox.
 */
class OpenStreams {
  /** Each source and the maximum size of its batches, by token. */
  #open = new Map();

  /**
   * Allows the guest to read the streams of a call.
   *
   * @param {Map<string, object>} streams sources by token
   * @param {number} maxValueSize the limit of the sandbox, in bytes
   */
  open(streams, maxValueSize) {
    const maxBytes = Math.min(MAX_BATCH_BYTES, maxValueSize);
    for (const [token, source] of streams) {
      // The caller may have left the call before it started.
      if (source.queue.isClosed) continue;
      this.#open.set(token, { source, maxBytes });
      source.open();
    }
  }

  /** Closes the streams of a call that has ended. */
  close(streams) {
    for (const [token, source] of streams) {
      this.#open.delete(token);
      source.close();
    }
  }

  /** Returns the next batch for the guest, as a JSON text. */
  async take(payload) {
    const found = this.#open.get(fromJson(payload, false));
    if (found === undefined) throw callEnded();
    return found.source.queue.take(found.maxBytes);
  }
}

module.exports = { HOSTCALL, OpenStreams, wrap };
