"""Clear errors for processes, which a sandbox does not have.

Without this module, code that starts one fails in the middle of the library, because a
function of `os` is missing. What needs semaphores is refused by the library itself.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import errno
import multiprocessing.connection
import multiprocessing.context


def _start(process_obj):
    raise OSError(errno.ENOTSUP, "a sandbox has no processes")


def _pipe(duplex=True):
    """Would return two connected ends of a pipe: a sandbox has none."""
    raise OSError(errno.ENOTSUP, "a sandbox has no pipes and no processes")


def install():
    """Replaces the functions that start a process or create a pipe."""
    context = multiprocessing.context
    for process in (context.ForkProcess, context.SpawnProcess, context.ForkServerProcess):
        process._Popen = staticmethod(_start)
    multiprocessing.connection.Pipe = _pipe
