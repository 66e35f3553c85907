"""The use of resources, as far as the guest knows it, and limits that cannot be changed.

The host limits memory and CPU time; neither is a limit of POSIX that a script could
read or lower. CPU time is what the host counts. All other figures are 0, as those of
fields that an operating system does not maintain.
"""

import time as _time
from collections import namedtuple
from operator import index as _index

error = OSError

RLIM_INFINITY = -1

# The values are those of Linux.
RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE = range(5)
RLIMIT_RSS, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS = range(5, 10)
RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD = 0, -1, 1

# The number of files and directories that a guest has open at most, see `isola::Limits`.
_MAX_OPEN_FILES = 256

_LIMITS = {
    RLIMIT_CORE: 0,
    RLIMIT_NPROC: 1,
    RLIMIT_NOFILE: _MAX_OPEN_FILES,
}

_PAGE_SIZE = 65536

_FIELDS = """
ru_utime ru_stime ru_maxrss ru_ixrss ru_idrss ru_isrss ru_minflt ru_majflt ru_nswap
ru_inblock ru_oublock ru_msgsnd ru_msgrcv ru_nsignals ru_nvcsw ru_nivcsw
"""


class struct_rusage(namedtuple("struct_rusage", _FIELDS)):  # noqa: N801
    __slots__ = ()
    __module__ = "resource"

    def __new__(cls, sequence):
        return super().__new__(cls, *sequence)

    def __getnewargs__(self):
        return (tuple(self),)

    def __repr__(self):
        return f"resource.{super().__repr__()}"


def getrusage(who, /):
    """Returns the use of resources. Without threads and processes, all is of one thread."""
    if _index(who) not in (RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD):
        raise ValueError("invalid who parameter")
    cpu = 0.0 if who == RUSAGE_CHILDREN else _time.process_time()
    return struct_rusage((cpu, 0.0, *(0,) * 14))


def getrlimit(resource, /):
    """Returns the current and the maximum limit of a resource, which are equal."""
    limit = _LIMITS.get(_checked(resource), RLIM_INFINITY)
    return limit, limit


def setrlimit(resource, limits, /):
    """Refuses to change a limit. Setting it to its value is allowed."""
    resource = _checked(resource)
    if isinstance(limits, (int, float)):
        raise TypeError(f"setrlimit() argument 2 must be a pair, not {type(limits).__name__}")
    limits = tuple(limits)
    if len(limits) != 2:
        raise ValueError("expected a tuple of 2 integers")
    limits = tuple(map(_limit, limits))
    if limits != getrlimit(resource):
        # The error for a limit that may not be raised.
        raise ValueError("not allowed: the limits of a sandbox are set by its host")


def getpagesize():
    """Returns the size of a page of WebAssembly's memory in bytes."""
    return _PAGE_SIZE


def _checked(resource):
    resource = _index(resource)
    if not -(1 << 31) <= resource < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
    if not RLIMIT_CPU <= resource <= RLIMIT_AS:
        raise ValueError("invalid resource specified")
    return resource


def _limit(value):
    value = _index(value)
    if value == (1 << 64) - 1:
        return RLIM_INFINITY
    if value < RLIM_INFINITY:
        raise ValueError("Cannot convert negative int")
    if value >= 1 << 64:
        raise OverflowError("Python int too large to convert to C rlim_t")
    return value
