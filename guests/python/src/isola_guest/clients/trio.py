"""What `trio` needs of an operating system in order to run tasks and timers.

`trio` is made for one of three system calls, and without any of them it cannot even be
imported, nor `httpcore` where `trio` is installed. In a sandbox there are no sockets that
it could wait for: only its timers, and a wake-up by the program itself.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import errno
import os
import select
import socket
from itertools import count

from isola_guest.waits import DeadlockError, sleep

# With the values of Linux.
_CONSTANTS = {
    "EPOLLIN": 0x1,
    "EPOLLPRI": 0x2,
    "EPOLLOUT": 0x4,
    "EPOLLERR": 0x8,
    "EPOLLHUP": 0x10,
    "EPOLLONESHOT": 1 << 30,
}

# The longest time in seconds for which `trio` waits at once, which it does without a timer.
_NO_TIMER = 24 * 60 * 60

# Methods of sockets that `trio` looks up on other platforms than Windows.
_SOCKET_METHODS = ("recvmsg", "recvmsg_into", "sendmsg")

# Names that `trio` re-exports on other platforms than Linux and Windows.
_RUN_FUNCTIONS = ("current_kqueue", "monitor_kevent", "wait_kevent")

# Numbers in place of file descriptors, which are never those of files.
_numbers = count(1 << 30)

# The numbers of the objects by which the program has woken itself.
_awake = set()


def prepare():
    """Adds what `trio` looks for: `select.epoll`, and methods of sockets."""
    if not hasattr(select, "epoll"):
        for name, value in _CONSTANTS.items():
            setattr(select, name, value)
        select.epoll = _Epoll
    _add_missing(socket.socket, _SOCKET_METHODS)


def change_run(module):
    """Changes `trio._core._run`, from which other modules import by platform."""
    _add_missing(module, _RUN_FUNCTIONS)


def _add_missing(owner, names):
    for name in names:
        if not hasattr(owner, name):
            setattr(owner, name, _missing(name))


def _missing(name):
    def missing(*args, **kwargs):
        raise OSError(errno.ENOSYS, f"a sandbox has no {name}")

    missing.__name__ = missing.__qualname__ = name
    return missing


def change_wakeup(module):
    """Changes `trio._core._wakeup_socketpair`, which uses a pair of sockets."""
    core = module._core

    class WakeupSocketpair:
        """Wakes the loop of `trio` from a function that it runs itself."""

        def __init__(self):
            self._number = next(_numbers)
            self.wakeup_sock = self

        def fileno(self):
            return self._number

        def wakeup_thread_and_signal_safe(self):
            _awake.add(self._number)

        async def wait_woken(self):
            await core.wait_readable(self)
            self.drain()

        def drain(self):
            _awake.discard(self._number)

        def wakeup_on_signals(self):
            """Does nothing: the interpreter runs handlers of signals at once."""

        def close(self):
            self.drain()

    WakeupSocketpair.__module__ = module.__name__
    WakeupSocketpair.__qualname__ = "WakeupSocketpair"
    module.WakeupSocketpair = WakeupSocketpair


class _Epoll:
    """A `select.epoll` without files."""

    def __init__(self, sizehint=-1, flags=0):
        # Maps a number to the events that are waited for.
        self._masks = {}

    def register(self, fd, eventmask):
        number = _number(fd)
        if number < 1 << 30:
            raise OSError(errno.EPERM, "a sandbox has no files that can be waited for")
        self._masks[number] = eventmask

    def modify(self, fd, eventmask):
        if _number(fd) not in self._masks:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._masks[_number(fd)] = eventmask

    def unregister(self, fd):
        if self._masks.pop(_number(fd), None) is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def poll(self, timeout=None, maxevents=-1):
        ready = self._ready()
        if ready or timeout == 0:
            return ready
        if timeout is None or not 0 <= timeout < _NO_TIMER:
            raise DeadlockError("no timer is set, and no task is left that could run")
        sleep(timeout)
        return self._ready()

    def close(self):
        self._masks.clear()

    def _ready(self):
        ready = []
        for number, mask in self._masks.items():
            if number in _awake and mask & select.EPOLLIN:
                ready.append((number, select.EPOLLIN))
                if mask & select.EPOLLONESHOT:
                    self._masks[number] = 0
        return ready


def _number(fd):
    return fd if isinstance(fd, int) else fd.fileno()
