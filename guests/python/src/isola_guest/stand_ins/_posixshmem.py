"""A replacement for shared memory, which a sandbox does not have.

`multiprocessing.shared_memory` is imported by packages that only mention it.
"""

import errno as _errno

_UNAVAILABLE = "a sandbox has no shared memory"


def shm_open(path, flags, mode=511):
    raise OSError(_errno.ENOTSUP, _UNAVAILABLE, path)


def shm_unlink(path):
    raise OSError(_errno.ENOTSUP, _UNAVAILABLE, path)
