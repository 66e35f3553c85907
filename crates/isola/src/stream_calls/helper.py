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
