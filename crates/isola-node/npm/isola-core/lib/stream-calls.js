'use strict';

// Calls with stream arguments, as the guest sees them.
//
// Such a call is made through a function that a script defines in the guest before
// the first of these calls. It replaces each stream argument by an iterable, which
// requests batches of values by a hostcall. So nothing is sent that the guest has not
// requested, and the contract between host and guest does not know streams.

const { invalid } = require('./errors');
const { fromJson } = require('./json');
const { callEnded } = require('./value-queue');

/** The hostcall that returns the next batch of a stream. */
const HOSTCALL = 'isola.stream';

/** The function in the guest that calls another one with its streams. */
const FUNCTION = '__isola_call__';

/** The maximum size of a batch with several values, in bytes. */
const MAX_BATCH_BYTES = 256 * 1024;

const PYTHON = `
def __isola_call__():
    from collections import deque
    from sandbox.asyncio import hostcall, run

    class Stream:
        def __init__(self, token):
            self._token, self._items, self._done = token, deque(), False

        def _add(self, batch):
            self._items.extend(batch["items"])
            self._done = self._done or batch["done"]

        def __iter__(self):
            return self

        def __next__(self):
            while not self._items:
                if self._done:
                    raise StopIteration
                self._add(run(hostcall("isola.stream", self._token)))
            return self._items.popleft()

        def __aiter__(self):
            return self

        async def __anext__(self):
            while not self._items:
                if self._done:
                    raise StopAsyncIteration
                self._add(await hostcall("isola.stream", self._token))
            return self._items.popleft()

    def read(marker):
        return Stream(marker[1]) if marker[0] else marker[1]

    names = globals()

    def call(function, positional, named):
        if function not in names:
            raise NameError(f"name '{function}' is not defined")
        return names[function](
            *map(read, positional), **{name: read(marker) for name, marker in named.items()}
        )

    return call


__isola_call__ = __isola_call__()
`;

// The guest takes every identifier that may be declared in a script for a new global,
// which hides the export of an earlier module with that name. So all of them have names
// that no other script uses.
const JAVASCRIPT = `
globalThis.__isola_call__ = (() => {
  const isolaHostcall = hostcall;
  const isolaEval = eval;
  async function* isolaStream(isolaToken) {
    for (;;) {
      const isolaBatch = await isolaHostcall('isola.stream', isolaToken);
      yield* isolaBatch.items;
      if (isolaBatch.done) return;
    }
  }
  const isolaRead = (isolaMarker) => (isolaMarker[0] ? isolaStream(isolaMarker[1]) : isolaMarker[1]);
  return (isolaName, isolaPositional, isolaNamed) => {
    let isolaTarget;
    try {
      isolaTarget = isolaEval(isolaName);
    } catch {
      throw new ReferenceError(
        isolaName + ' is not defined: with a StreamArg it must be a function of a script, not of a module',
      );
    }
    const isolaArgs = isolaPositional.map(isolaRead);
    const isolaEntries = Object.entries(isolaNamed);
    if (isolaEntries.length > 0) {
      isolaArgs.push(Object.fromEntries(isolaEntries.map((isolaEntry) => [isolaEntry[0], isolaRead(isolaEntry[1])])));
    }
    return isolaTarget(...isolaArgs);
  };
})();
`;

/**
 * The script that defines the function in each guest, and its file name. The guests omit
 * frames of these files from tracebacks, like those of their own code.
 */
const HELPERS = {
  python: { source: PYTHON, file: '/lib/python3.14/asyncio/isola_streams.py' },
  js: { source: JAVASCRIPT, file: 'isola:guest/streams.js' },
};

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

module.exports = { HOSTCALL, HELPERS, OpenStreams, wrap };
