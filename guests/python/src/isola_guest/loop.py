"""An asyncio event loop over the host.

The scheduling is CPython's own `BaseEventLoop`. This adds the one place where
it waits (for the host's news, a timer, and WASI pollables) and the end of a
call, when nothing may be left pending.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio
import weakref

from wit_world.imports import host, monotonic_clock, poll

from . import pending, places, stdio
from .waits import DeadlockError


class _Waits:
    """What `BaseEventLoop` calls its selector: a place to wait."""

    def __init__(self, loop):
        self._loop = weakref.ref(loop)
        # Futures of user code, each with the pollable that it waits for.
        self.pollables = {}

    def select(self, timeout):
        if timeout is None or timeout > 0:
            self._wait(timeout)
            return ()
        if pending.waiting:
            pending.settle(host.completions())
        if self.pollables:
            self._settle([each for each in self.pollables.items() if each[1].ready()])
        return ()

    def _wait(self, timeout):
        stdio.flush()
        nanos = None if timeout is None else int(timeout * 1e9) + 1
        if self.pollables:
            self._poll(nanos)
        elif pending.waiting or nanos is not None:
            pending.settle(host.wait(nanos))
        else:
            raise _deadlock(self._loop())

    def _poll(self, nanos):
        waited = list(self.pollables.items())
        host.wake_next_timer()
        with monotonic_clock.subscribe_duration(_FOREVER if nanos is None else nanos) as timer:
            ready = poll.poll([*(pollable for _, pollable in waited), timer])
        self._settle([waited[index] for index in ready if index < len(waited)])
        pending.settle(host.completions())

    def _settle(self, ready):
        for future, _ in ready:
            self.pollables.pop(future, None)
            if not future.done():
                future.set_result(None)

    def close(self):
        self.pollables.clear()


# From here on the host takes a timer for none.
_FOREVER = 2**30 * 1_000_000

# How often the end of a call looks for more to end: ending a task may start others.
_ROUNDS = 100

# From how many tasks on those that need no report are sorted out.
_MANY = 1000


class _InOrder:
    """As much of a weak set as is needed here; it remembers the order."""

    def __init__(self):
        self.references = {}

    def add(self, item):
        identity = id(item)
        self.references[identity] = weakref.ref(item, lambda _: self.references.pop(identity, None))

    def discard(self, item):
        self.references.pop(id(item), None)

    def pop(self):
        """Takes the youngest."""
        return self.references.popitem()[1]()

    def clear(self):
        self.references.clear()

    def __len__(self):
        return len(self.references)

    def __iter__(self):
        return iter([reference() for reference in self.references.values()])


# The loops that user code made.
_others = _InOrder()


class Loop(asyncio.BaseEventLoop):
    """The event loop of the guest."""

    # If it could not even be made, it is not to be closed.
    _closed = True

    def __init__(self):
        super().__init__()
        self._selector = _Waits(self)
        self._asyncgens = _InOrder()
        # Whether a task of another loop stands still while this one runs.
        self._is_nested = False
        # What was started, for the report of failures at the end.
        self._started = []
        self._many = _MANY
        _others.add(self)

    def create_task(self, coro, **kwargs):
        self._check_closed()
        if self._task_factory is None:
            task = asyncio.Task(coro, loop=self, **kwargs)
        else:
            task = self._task_factory(self, coro, **kwargs)
        try:
            self._started.append(weakref.ref(task))
            if len(self._started) > self._many:
                self._sort_out()
            return task
        finally:
            # A task's exception may know this frame: no cycle with the task.
            del task

    def run_in_executor(self, executor, func, *args):
        if executor is None and self._default_executor is None:
            raise RuntimeError("a sandbox has no threads: call the function itself")
        return super().run_in_executor(executor, func, *args)

    def wait_for_pollable(self, pollable):
        """A future that ends when the pollable is ready."""
        future = self.create_future()
        self._selector.pollables[future] = pollable
        future.add_done_callback(lambda done: self._selector.pollables.pop(done, None))
        return future

    def run_within(self, outer, coroutine):
        """Runs a coroutine while `outer`, and its current task, stand still."""
        self._is_nested = True
        task = asyncio.tasks._swap_current_task(outer, None)
        asyncio._set_running_loop(None)
        try:
            try:
                return self.run_until_complete(coroutine)
            finally:
                try:
                    self.finish()
                finally:
                    self.close()
        finally:
            asyncio._set_running_loop(outer)
            asyncio.tasks._swap_current_task(outer, task)

    async def shutdown_asyncgens(self):
        """Closes the async generators one after another, the youngest first."""
        while self._asyncgens:
            generator = self._asyncgens.pop()
            try:
                await generator.aclose()
            except Exception as error:
                message = f"an error occurred during closing of asynchronous generator {generator!r}"
                self.call_exception_handler(
                    {"message": message, "exception": error, "asyncgen": generator}
                )

    def finish(self):
        """Ends what is left, so that an idle guest waits for nothing."""
        # Whatever runs on a loop began as one of these.
        if self._started or self._ready or self._scheduled:
            self._end()

    def close(self):
        if not self.is_running():
            _others.discard(self)
            self._selector.close()
            if pending.waiting:
                self._abandon()
        super().close()

    def _process_events(self, events):
        """Nothing: futures are settled where the wait ends."""

    def _write_to_self(self):
        """Nothing: there is no other thread that could be waiting."""

    def _end(self):
        hopeless = set()
        try:
            rounds = 0
            while rounds < _ROUNDS and self._end_some(hopeless):
                rounds += 1
        finally:
            # Also if one of them would not be ended.
            for handle in self._scheduled:
                handle._scheduled = False
            self._scheduled.clear()
            self._timer_cancelled_count = 0
            self._ready.clear()
            self._selector.close()
            self._report()

    def _end_some(self, hopeless):
        """One round of the end. Whether there was anything to end."""
        tasks = asyncio.all_tasks(self)
        if hopeless:
            tasks -= hopeless
        if tasks:
            # In the order in which they were started, as far as that is known.
            known = [task for started in self._started if (task := started()) in tasks]
            for task in dict.fromkeys([*known, *tasks]):
                # One that closes an async generator is the end already.
                if not isinstance(task.get_coro(), _Closing):
                    task.cancel()
            # Which asks nobody for their exception.
            ending = asyncio.wait(tasks)
        elif self._asyncgens:
            ending = self.shutdown_asyncgens()
        elif self._ready:
            ending = _nothing()
        else:
            return False
        try:
            self.run_until_complete(ending)
        except DeadlockError:
            for task in tasks:
                self._give_up(task)
            hopeless |= tasks
        return True

    def _give_up(self, task):
        if not task.done():
            task._log_destroy_pending = False
            message = "A task does not end: it waits for what can never come"
            self.call_exception_handler({"message": message, "task": task})

    def _report(self):
        """Reports the tasks that failed and that nobody asked for their failure."""
        started, self._started, self._many = self._started, [], _MANY
        for reference in started:
            task = reference()
            if task is None or not _is_failure(task):
                continue
            # Asking for the exception also makes this the only report.
            error = task.exception()
            # These two went out of the loop, to whoever ran it.
            if not isinstance(error, (SystemExit, KeyboardInterrupt)):
                message = "Task exception was never retrieved"
                self.call_exception_handler({"message": message, "exception": error, "future": task})

    def _sort_out(self):
        def is_wanted(task):
            return task is not None and (not task.done() or _is_failure(task))

        self._started = [reference for reference in self._started if is_wanted(reference())]
        self._many = max(_MANY, 2 * len(self._started))

    def _abandon(self):
        """Ends what still waits for the host's news on this loop."""
        for number, (future, _) in list(pending.waiting.items()):
            if asyncio.isfuture(future) and future.get_loop() is self:
                del pending.waiting[number]
                host.abandon(number)


class _Main(Loop):
    """The loop that every call runs on: no call may close it for the next."""

    def close(self):
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        self.finish()


class _Policy(asyncio.events._AbstractEventLoopPolicy):
    """Makes `asyncio.run` and `asyncio.new_event_loop` use this loop."""

    def __init__(self):
        self._loop = None

    def get_event_loop(self):
        return main if self._loop is None else self._loop

    def set_event_loop(self, loop):
        self._loop = loop

    def new_event_loop(self):
        return Loop()


def run(coroutine):
    """Runs a coroutine to its end: on the calls' loop, or within a running one."""
    outer = asyncio._get_running_loop()
    if outer is not None:
        return Loop().run_within(outer, coroutine)
    try:
        return main.run_until_complete(coroutine)
    except DeadlockError:
        # Whoever catches it goes on without the tasks that cannot.
        main.finish()
        raise


def finish():
    """The end of a call: nothing is left pending, on any loop."""
    try:
        main.finish()
        if _others.references:
            for loop in list(_others):
                loop.finish()
    finally:
        pending.waiting.clear()


def _deadlock(loop):
    message = (
        "the awaited result can never come: no hostcall, request, timer or pollable is pending,"
        " and nothing is left to run that could set it"
    )
    error = DeadlockError(message)
    if loop._is_nested:
        error.add_note("The tasks outside stand still until this run() returns.")
    for place in places.of_tasks(asyncio.all_tasks(loop)):
        error.add_note(place)
    return error


def _is_failure(task):
    return task.done() and task._log_traceback


async def _nothing():
    pass


async def _no_items():
    for item in ():
        yield item


_closing = _no_items().aclose()
_closing.close()
_Closing = type(_closing)


asyncio.events._set_event_loop_policy(_Policy())
asyncio.EventLoop = Loop

# The loop of the calls that the host makes, and of `sandbox.asyncio.run`.
main = _Main()
_others.discard(main)
