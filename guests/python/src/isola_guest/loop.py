"""An asyncio event loop over the host.

The scheduling is CPython's own `BaseEventLoop`. This adds the one place where
it waits: for the host's news, a timer, and WASI pollables.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio

from wit_world.imports import host, monotonic_clock, poll

from . import pending, stdio


class DeadlockError(RuntimeError):
    """Nothing that is pending could ever wake what is waited for."""

    __module__ = "sandbox.asyncio"


class _Waits:
    """What `BaseEventLoop` calls its selector: a place to wait."""

    def __init__(self):
        # Pollables of user code, each with its future.
        self.pollables = {}

    def select(self, timeout):
        if timeout is None or timeout > 0:
            self._wait(timeout)
        elif pending.waiting:
            pending.settle(host.completions())
        return ()

    def _wait(self, timeout):
        stdio.flush()
        nanos = None if timeout is None else int(timeout * 1e9) + 1
        if self.pollables:
            self._poll(nanos)
        elif pending.waiting or nanos is not None:
            pending.settle(host.wait(nanos))
        else:
            raise DeadlockError("the awaited result can never come: nothing is pending")

    def _poll(self, nanos):
        waited = list(self.pollables)
        host.wake_next_timer()
        with monotonic_clock.subscribe_duration(_FOREVER if nanos is None else nanos) as timer:
            ready = poll.poll([*waited, timer])
        for index in ready:
            if index < len(waited):
                future = self.pollables.pop(waited[index])
                if not future.done():
                    future.set_result(None)
        pending.settle(host.completions())

    def close(self):
        self.pollables.clear()


# From here on the host takes a timer for none.
_FOREVER = 2**30 * 1_000_000


class Loop(asyncio.BaseEventLoop):
    """The event loop of the guest."""

    def __init__(self):
        super().__init__()
        self._selector = _Waits()

    def _process_events(self, events):
        """Nothing: futures are settled where the wait ends."""

    def _write_to_self(self):
        """Nothing: there is no other thread that could be waiting."""

    def wait_for_pollable(self, pollable):
        """A future that ends when the pollable is ready."""
        future = self.create_future()
        self._selector.pollables[pollable] = future
        future.add_done_callback(lambda _: self._selector.pollables.pop(pollable, None))
        return future

    def finish(self):
        """Cancels what a call left behind, so that an idle guest waits for nothing."""
        try:
            tasks = asyncio.all_tasks(self)
            if tasks:
                for task in tasks:
                    task.cancel()
                self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            if self._asyncgens:
                self.run_until_complete(self.shutdown_asyncgens())
        finally:
            # Also if one of them would not be cancelled.
            self._scheduled.clear()
            self._ready.clear()


class _Policy(asyncio.events._AbstractEventLoopPolicy):
    """Makes `asyncio.run` and `asyncio.new_event_loop` use this loop."""

    def __init__(self):
        self._loop = None

    def get_event_loop(self):
        if self._loop is None:
            raise RuntimeError("There is no current event loop.")
        return self._loop

    def set_event_loop(self, loop):
        self._loop = loop

    def new_event_loop(self):
        return Loop()


asyncio.events._set_event_loop_policy(_Policy())

# The loop of the calls that the host makes, and of `sandbox.asyncio.run`.
main = Loop()
