"""An asyncio event loop over the host.

The scheduling is CPython's own `BaseEventLoop`. This module adds the selector, which
waits for completions of the host, a timer, and WASI pollables, and the end of a call,
when nothing may be left pending.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import asyncio
import weakref

from wit_world.imports import host, monotonic_clock, poll

from . import pending, places, stdio
from .waits import DeadlockError


class _Selector:
    """The selector of `BaseEventLoop`, which waits for events of the host."""

    def __init__(self, loop):
        self._loop = weakref.ref(loop)
        # Maps futures of user code to the pollables that they wait for.
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
        with monotonic_clock.subscribe_duration(
            _NO_TIMEOUT_NANOS if nanos is None else nanos
        ) as timer:
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


# The duration in nanoseconds from which on the host ignores a timer.
_NO_TIMEOUT_NANOS = 2**30 * 1_000_000

# The maximum number of rounds in which the end of a call cancels tasks, since cancelling
# a task may start others.
_MAX_SHUTDOWN_ROUNDS = 100

# The number of started tasks from which on those that need no report are pruned.
_PRUNE_THRESHOLD = 1000


class _OrderedWeakSet:
    """A minimal weak set that keeps the order of insertion."""

    def __init__(self):
        self.references = {}

    def add(self, item):
        identity = id(item)
        self.references[identity] = weakref.ref(item, lambda _: self.references.pop(identity, None))

    def discard(self, item):
        self.references.pop(id(item), None)

    def pop(self):
        """Removes and returns the newest item."""
        return self.references.popitem()[1]()

    def clear(self):
        self.references.clear()

    def __len__(self):
        return len(self.references)

    def __iter__(self):
        return iter([reference() for reference in self.references.values()])


# The event loops that user code created.
_user_loops = _OrderedWeakSet()


class Loop(asyncio.BaseEventLoop):
    """The event loop of the guest."""

    # A loop whose constructor failed counts as closed, so that `__del__` does not close it.
    _closed = True

    def __init__(self):
        super().__init__()
        self._selector = _Selector(self)
        self._asyncgens = _OrderedWeakSet()
        # True if a task of another loop is suspended while this one runs.
        self._is_nested = False
        # Weak references to the started tasks, for the report of failures at the end.
        self._started = []
        self._prune_at = _PRUNE_THRESHOLD
        _user_loops.add(self)

    def create_task(self, coro, **kwargs):
        self._check_closed()
        if self._task_factory is None:
            task = asyncio.Task(coro, loop=self, **kwargs)
        else:
            task = self._task_factory(self, coro, **kwargs)
        try:
            self._started.append(weakref.ref(task))
            if len(self._started) > self._prune_at:
                self._prune()
            return task
        finally:
            # A task's exception may refer to this frame: avoid a cycle with the task.
            del task

    def run_in_executor(self, executor, func, *args):
        if executor is None and self._default_executor is None:
            raise RuntimeError("a sandbox has no threads: call the function itself")
        return super().run_in_executor(executor, func, *args)

    def wait_for_pollable(self, pollable):
        """Returns a future that is done when the pollable is ready."""
        future = self.create_future()
        self._selector.pollables[future] = pollable
        future.add_done_callback(lambda done: self._selector.pollables.pop(done, None))
        return future

    def run_within(self, outer, coroutine):
        """Runs a coroutine while `outer` and its current task are suspended."""
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
        """Closes the async generators one after another, the newest first."""
        while self._asyncgens:
            generator = self._asyncgens.pop()
            try:
                await generator.aclose()
            except Exception as error:
                message = (
                    f"an error occurred during closing of asynchronous generator {generator!r}"
                )
                self.call_exception_handler(
                    {"message": message, "exception": error, "asyncgen": generator}
                )

    def finish(self):
        """Ends all pending work, so that an idle guest waits for nothing."""
        # All work on a loop starts as one of these.
        if self._started or self._ready or self._scheduled:
            self._end_all()

    def close(self):
        if not self.is_running():
            _user_loops.discard(self)
            self._selector.close()
            if pending.waiting:
                self._abandon()
        super().close()

    def _process_events(self, events):
        """Does nothing: the selector settles the futures itself."""

    def _write_to_self(self):
        """Does nothing: there is no other thread that could wait in the selector."""

    def _end_all(self):
        stuck = set()
        try:
            rounds = 0
            while rounds < _MAX_SHUTDOWN_ROUNDS and self._end_round(stuck):
                rounds += 1
        finally:
            # Also if a task could not be ended.
            for handle in self._scheduled:
                handle._scheduled = False
            self._scheduled.clear()
            self._timer_cancelled_count = 0
            self._ready.clear()
            self._selector.close()
            self._report()

    def _end_round(self, stuck):
        """Runs one round of the end. Returns whether there was anything to end."""
        tasks = asyncio.all_tasks(self)
        if stuck:
            tasks -= stuck
        if tasks:
            # In the order of their start, as far as that is known.
            known = [task for started in self._started if (task := started()) in tasks]
            for task in dict.fromkeys([*known, *tasks]):
                # A task that closes an async generator is part of the end already.
                if not isinstance(task.get_coro(), _Closing):
                    task.cancel()
            # `asyncio.wait` does not retrieve the exceptions of the tasks.
            ending = asyncio.wait(tasks)
        elif self._asyncgens:
            ending = self.shutdown_asyncgens()
        elif self._ready:
            ending = _noop()
        else:
            return False
        try:
            self.run_until_complete(ending)
        except DeadlockError:
            for task in tasks:
                self._report_stuck(task)
            stuck |= tasks
        return True

    def _report_stuck(self, task):
        if not task.done():
            task._log_destroy_pending = False
            message = "A task cannot be ended: it waits for a result that can never arrive"
            self.call_exception_handler({"message": message, "task": task})

    def _report(self):
        """Reports the failed tasks whose exceptions were never retrieved."""
        started, self._started, self._prune_at = self._started, [], _PRUNE_THRESHOLD
        for reference in started:
            task = reference()
            if task is None or not _is_failure(task):
                continue
            # Retrieving the exception prevents a second report.
            error = task.exception()
            # The loop raised these two to its caller.
            if not isinstance(error, (SystemExit, KeyboardInterrupt)):
                message = "Task exception was never retrieved"
                self.call_exception_handler(
                    {"message": message, "exception": error, "future": task}
                )

    def _prune(self):
        def is_wanted(task):
            return task is not None and (not task.done() or _is_failure(task))

        self._started = [reference for reference in self._started if is_wanted(reference())]
        self._prune_at = max(_PRUNE_THRESHOLD, 2 * len(self._started))

    def _abandon(self):
        """Abandons operations of the host for which a future of this loop still waits."""
        for number, (future, _) in list(pending.waiting.items()):
            if asyncio.isfuture(future) and future.get_loop() is self:
                del pending.waiting[number]
                host.abandon(number)


class _MainLoop(Loop):
    """The loop on which every call runs. No call can close it for the next."""

    def close(self):
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        self.finish()


class _Policy(asyncio.events._AbstractEventLoopPolicy):
    """The policy by which `asyncio.run` and `asyncio.new_event_loop` use this loop."""

    def __init__(self):
        self._loop = None

    def get_event_loop(self):
        return main if self._loop is None else self._loop

    def set_event_loop(self, loop):
        self._loop = loop

    def new_event_loop(self):
        return Loop()


def run(coroutine):
    """Runs a coroutine to its end, on the main loop or nested in a running one."""
    outer = asyncio._get_running_loop()
    if outer is not None:
        return Loop().run_within(outer, coroutine)
    try:
        return main.run_until_complete(coroutine)
    except DeadlockError:
        # Code that catches it continues without the tasks that are stuck.
        main.finish()
        raise


def finish():
    """Ends a call: nothing is left pending on any loop."""
    try:
        main.finish()
        if _user_loops.references:
            for loop in list(_user_loops):
                loop.finish()
    finally:
        pending.waiting.clear()


def _deadlock(loop):
    message = (
        "the awaited result can never arrive: no hostcall, request, timer or pollable is pending,"
        " and no task is left that could set it"
    )
    error = DeadlockError(message)
    if loop._is_nested:
        error.add_note("The tasks of the outer loop are suspended until this run() returns.")
    for note in places.of_tasks(asyncio.all_tasks(loop)):
        error.add_note(note)
    return error


def _is_failure(task):
    return task.done() and task._log_traceback


async def _noop():
    pass


async def _no_items():
    for item in ():
        yield item


_closing = _no_items().aclose()
_closing.close()
_Closing = type(_closing)


asyncio.events._set_event_loop_policy(_Policy())
asyncio.EventLoop = Loop

# The loop of the host's calls and of `sandbox.asyncio.run`.
main = _MainLoop()
_user_loops.discard(main)
