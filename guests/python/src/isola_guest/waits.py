"""Blocking waits in synchronous code, in a guest with one thread.

A locked lock remains locked while the only thread waits for it. So a wait with a
timeout lasts until the timeout, and one without raises an error; the interpreter's own
locks would terminate the guest, or return immediately. The host provides the clocks of
CPU time.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import _thread
import inspect
import os
import sys
import time

from wit_world.imports import host

from . import stdio
from .builtin import Builtin


class DeadlockError(RuntimeError):
    """A wait that no pending operation could ever end."""

    __module__ = "sandbox.asyncio"


# The maximum timeout of a lock, in seconds.
_MAX_TIMEOUT = _thread.TIMEOUT_MAX


def sleep(seconds):
    """Sends buffered output to the host, then waits without using CPU time."""
    stdio.flush()
    _real_sleep(seconds)


_real_sleep = time.sleep
_real_select = _real_poll = None


class lock:  # noqa: N801  (the name of the type that it replaces)
    """A lock for one thread, with the interface of `_thread.lock`."""

    __slots__ = ("_is_locked", "__weakref__")
    __module__ = "_thread"

    def __init__(self):
        self._is_locked = False

    def __init_subclass__(cls):
        raise TypeError("type '_thread.lock' is not an acceptable base type")

    def acquire(self, blocking=True, timeout=-1):
        """Acquires the lock. Returns whether it was acquired."""
        if timeout != -1:
            _check(blocking, timeout)
        if not self._is_locked:
            self._is_locked = True
            return True
        if not blocking or timeout == 0:
            return False
        if timeout < 0:
            raise _deadlock("the lock can never be acquired")
        sleep(timeout)
        # A handler of user code may have run in the meantime.
        return not self._is_locked and self.acquire(False)

    def release(self):
        """Releases the lock."""
        if not self._is_locked:
            raise RuntimeError("release unlocked lock")
        self._is_locked = False

    def locked(self):
        """Returns whether the lock is locked."""
        return self._is_locked

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def __enter__(self):
        if self._is_locked:
            return self.acquire()
        self._is_locked = True
        return True

    def __exit__(self, *_):
        self.release()

    def __repr__(self):
        state = "locked" if self._is_locked else "unlocked"
        return f"<{state} _thread.lock object at {id(self):#x}>"

    def __reduce__(self):
        raise TypeError("cannot pickle '_thread.lock' object")

    def _at_fork_reinit(self):
        self._is_locked = False


def _check(blocking, timeout):
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    if timeout > _MAX_TIMEOUT:
        raise OverflowError("timeout value is too large")


def _deadlock(what):
    return DeadlockError(f"{what}: a sandbox has one thread, which would wait for itself forever")


def _select(rlist, wlist, xlist, timeout=None, /):
    """A `select.select` that also waits with empty sets, in a guest without sockets."""
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must be non-negative")
    if any(map(len, map(list, (rlist, wlist, xlist)))):
        return _real_select(rlist, wlist, xlist, timeout)
    if timeout is None:
        raise _deadlock("select can never return")
    sleep(timeout)
    return [], [], []


class _Poll:
    """A `select.poll` that also waits with an empty set, like `select`."""

    __slots__ = ("_real", "_fds")

    def __init__(self):
        self._real = _real_poll()
        self._fds = set()

    def register(self, fd, *eventmask):
        self._real.register(fd, *eventmask)
        self._fds.add(_number(fd))

    def modify(self, fd, eventmask, /):
        self._real.modify(fd, eventmask)

    def unregister(self, fd, /):
        self._real.unregister(fd)
        self._fds.discard(_number(fd))

    def poll(self, timeout=None, /):
        if self._fds:
            return self._real.poll(timeout)
        if timeout is None or timeout < 0:
            raise _deadlock("poll can never return")
        sleep(timeout / 1000)
        return []


def _number(fd):
    return fd if isinstance(fd, int) else fd.fileno()


def _process_time():
    return host.cpu_time() / 1e9


def _process_time_ns():
    return host.cpu_time()


def _times():
    cpu = _process_time()
    return os.times_result((cpu, 0.0, 0.0, 0.0, time.monotonic()))


_CPU_CLOCKS = ("process_time", "thread_time")


def _get_clock_info(name):
    info = _real_clock_info("monotonic" if name in _CPU_CLOCKS else name)
    if name in _CPU_CLOCKS:
        info.implementation = "isola:sandbox/host.cpu-time"
        info.resolution = 1e-9
    return info


_real_clock_info = time.get_clock_info


def install():
    """Replaces the interpreter's own functions and types in every loaded module."""
    global _real_select, _real_poll
    import _queue
    import queue
    import select
    import selectors

    simple_queue = queue._PySimpleQueue
    simple_queue.__name__ = simple_queue.__qualname__ = "SimpleQueue"
    simple_queue.__module__ = "_queue"
    _real_select = select.select
    stand_ins = [
        (_thread.lock, lock),
        (_thread.allocate_lock, lock),
        (_queue.SimpleQueue, simple_queue),
        (select.select, _select),
        (time.sleep, sleep),
        (time.process_time, _process_time),
        (time.process_time_ns, _process_time_ns),
        (time.get_clock_info, _get_clock_info),
    ]
    # This build of the interpreter may lack these.
    for module, name, stand_in in (
        (time, "thread_time", _process_time),
        (time, "thread_time_ns", _process_time_ns),
        (os, "times", _times),
    ):
        if hasattr(module, name):
            stand_ins.append((getattr(module, name), stand_in))
    if hasattr(select, "poll"):
        _real_poll = select.poll
        stand_ins.append((select.poll, _Poll))
        selectors.PollSelector._selector_cls = _Poll
    selectors.SelectSelector._select = staticmethod(_select)
    stand_ins = [
        (real, Builtin(stand_in, real) if inspect.isfunction(stand_in) else stand_in)
        for real, stand_in in stand_ins
    ]
    for module in list(sys.modules.values()):
        if module is sys.modules[__name__]:
            continue
        for name, value in list(vars(module).items()):
            for real, stand_in in stand_ins:
                if value is real:
                    setattr(module, name, stand_in)
