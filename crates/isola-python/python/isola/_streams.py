"""The guest side of `StreamArg`: scripts that a sandbox loads before its first
call with a stream.

A call with a stream among its arguments is made through `__isola_call__`, which
replaces the stream by an iterable. The iterable requests values from the host in
batches, so that nothing is sent that the guest has not requested.
"""

from __future__ import annotations

HOSTCALL = "isola.stream"

# The file name of the script. The Python guest omits its frames from tracebacks, like
# those of the event loop beneath user code.
HELPER_FILE = "/lib/python3.14/asyncio/isola_streams.py"

_PYTHON = """
def __isola_call__():
    from collections import deque
    from sandbox.asyncio import hostcall, run

    class Stream:
        def __init__(self, number):
            self._number, self._items, self._done = number, deque(), False

        def _add(self, batch):
            self._items.extend(batch["items"])
            self._done = self._done or batch["done"]

        def __iter__(self):
            return self

        def __next__(self):
            while not self._items:
                if self._done:
                    raise StopIteration
                self._add(run(hostcall("isola.stream", self._number)))
            return self._items.popleft()

        def __aiter__(self):
            return self

        async def __anext__(self):
            while not self._items:
                if self._done:
                    raise StopAsyncIteration
                self._add(await hostcall("isola.stream", self._number))
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
"""

_JAVASCRIPT = """
globalThis.__isola_call__ = (() => {
  const request = hostcall;
  async function* stream(number) {
    for (;;) {
      const batch = await request('isola.stream', number);
      yield* batch.items;
      if (batch.done) return;
    }
  }
  const read = ([isStream, value]) => (isStream ? stream(value) : value);
  const lookUp = eval;
  return (name, positional, named) => {
    let target;
    try {
      target = lookUp(name);
    } catch {
      throw new ReferenceError(`${name} is not defined`);
    }
    const args = positional.map(read);
    const names = Object.keys(named);
    if (names.length > 0) {
      args.push(Object.fromEntries(names.map((key) => [key, read(named[key])])));
    }
    return target(...args);
  };
})();
"""

HELPERS = {"python": _PYTHON, "js": _JAVASCRIPT}
