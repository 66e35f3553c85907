"""Functions of `os` that WASI lacks and that have one sensible answer in a sandbox.

Functions that need what a sandbox does not have (processes, pipes, users) remain absent:
the library and packages ask with `hasattr` whether they exist.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import errno
import os
import posix
import sys
from _signal import raise_signal
from importlib.machinery import PathFinder
from operator import index

from wit_world.imports import host

from .builtin import Builtin

# The user and group to which all files belong, according to `os.stat`. Code that compares
# the two must find that the files are its own.
_USER = 0

# The name of the machine. The C library has none, and e-mail and URLs need a valid one.
HOST_NAME = "localhost"

# What the permissions of new files lack. The host applies it to the sandbox's own files.
_umask = 0o022

# False while the component is built, when there is no host.
has_host = False

_real_mkdir = os.mkdir
_real_open = os.open
_real_uname = os.uname


def getuid():
    """Returns the user that owns the files: there is only one."""
    return _USER


def getresuid():
    """Returns the real, effective and saved user."""
    return _USER, _USER, _USER


def getgroups():
    """Returns the groups of the user."""
    return [_USER]


def getlogin():
    """Returns the name of the user."""
    return "root"


def getppid():
    """Returns 0, as for a parent process outside of the container."""
    return 0


def getpgrp():
    """Returns the process group: that of the only process."""
    return os.getpid()


def getpgid(pid, /):
    """Returns the process group of a process."""
    _check_process(pid)
    return os.getpid()


def kill(pid, signal, /):
    """Sends a signal to the only process, which handles it before this returns."""
    signal = index(signal)
    # Also 0, its process group.
    _check_process(pid)
    if signal:
        raise_signal(signal)


def _check_process(pid):
    if index(pid) not in (0, os.getpid()):
        raise _error(errno.ESRCH)


def umask(mask, /):
    """Sets the mask of the permissions of new files, and returns the last one."""
    global _umask
    last, _umask = _umask, index(mask) & 0o777
    host.set_umask(_umask)
    return last


# The sandbox's own files have permissions, which the host stores. Those of files in mounts
# are fixed: a change of them has no effect and is no error, as on a file system that has
# none.
def _chmod(path, mode, *, dir_fd=None, follow_symlinks=True):
    mode = index(mode)
    found = os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    host.set_mode(found.st_ino, mode & 0o7777)


def fchmod(fd, mode):
    """Changes the permissions of an open file."""
    mode = index(mode)
    host.set_mode(os.fstat(index(fd)).st_ino, mode & 0o7777)


def _mkdir(path, mode=0o777, *, dir_fd=None):
    _real_mkdir(path, mode, dir_fd=dir_fd)
    if mode != 0o777 and has_host:
        _chmod(path, mode & ~_umask, dir_fd=dir_fd)


def _open(path, flags, mode=0o777, *, dir_fd=None):
    if not (has_host and flags & os.O_CREAT):
        return _real_open(path, flags, mode, dir_fd=dir_fd)
    # The library passes no permissions to the host.
    try:
        fd = _real_open(path, flags | os.O_EXCL, mode, dir_fd=dir_fd)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return _real_open(path, flags, mode, dir_fd=dir_fd)
    fchmod(fd, mode & ~_umask)
    return fd


# Files have one owner, as on a file system without owners. A change of it has no effect and
# is no error: programs that run as root, such as `tarfile`, expect that it succeeds.
def chown(path, uid, gid, *, dir_fd=None, follow_symlinks=True):
    """Checks that a file exists. It keeps its owner."""
    os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    index(uid), index(gid)


def lchown(path, uid, gid):
    """Checks that a file or symbolic link exists. It keeps its owner."""
    os.stat(path, follow_symlinks=False)
    index(uid), index(gid)


def fchown(fd, uid, gid):
    """Checks that a file is open. It keeps its owner."""
    os.fstat(fd)
    index(uid), index(gid)


def get_terminal_size(fd=1, /):
    """Raises an error: no file is a terminal."""
    os.fstat(fd)
    raise _error(errno.ENOTTY)


def _error(number, *names):
    return OSError(number, os.strerror(number), *names)


def _uname():
    # Positions, since the type cannot be copied with changes.
    system, _, *rest = _real_uname()
    return os.uname_result((system, HOST_NAME, *rest))


_ADDED = {
    "chown": chown,
    "fchmod": fchmod,
    "fchown": fchown,
    "get_terminal_size": get_terminal_size,
    "getegid": getuid,
    "geteuid": getuid,
    "getgid": getuid,
    "getgroups": getgroups,
    "getlogin": getlogin,
    "getpgid": getpgid,
    "getpgrp": getpgrp,
    "getppid": getppid,
    "getresgid": getresuid,
    "getresuid": getresuid,
    "getsid": getpgid,
    "getuid": getuid,
    "kill": kill,
    "lchown": lchown,
    "umask": umask,
}


def install():
    """Adds the functions that are missing, the user and group, and a name of the machine."""
    for name, function in _ADDED.items():
        if not hasattr(os, name):
            added = Builtin.added(function, posix, name)
            setattr(posix, name, added)
            setattr(os, name, added)
            os.__all__.append(name)
    os.uname = posix.uname = Builtin(_uname, _real_uname)
    os.chmod = posix.chmod = Builtin(_chmod, os.chmod)
    os.mkdir = posix.mkdir = Builtin(_mkdir, _real_mkdir)
    os.open = posix.open = Builtin(_open, _real_open)
    # The library asks for these when it is imported, and uses them.
    for name in ("grp", "pwd"):
        spec = PathFinder.find_spec(name, [f"{os.path.dirname(__file__)}/stand_ins"])
        sys.modules[name] = type(sys)(name)
        sys.modules[name].__spec__ = spec
        spec.loader.exec_module(sys.modules[name])
