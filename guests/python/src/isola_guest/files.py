"""Flushes files that user code leaves open at the end of a call.

CPython flushes them when the objects are destroyed, at the latest at process exit. A
sandbox continues after a call, and its host may read a file in between.

This module also provides the null device, which is not a file here, and corrects the
working directory.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import builtins
import gc
import io
import os
import sys
import traceback
import weakref

from .builtin import Builtin

_NULL = frozenset((os.devnull, os.fsencode(os.devnull)))

_real_open = io.open
_real_chdir = os.chdir

# Maps the identity of a file that was opened for writing to a weak reference to it.
_written = {}

# The types of files with a buffer of their own.
_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class _Null(io.RawIOBase):
    """The null device: reads return nothing, and writes are discarded."""

    def __init__(self, mode):
        self.mode = mode
        self.name = os.devnull

    def readable(self):
        return "r" in self.mode or "+" in self.mode

    def writable(self):
        return "r" not in self.mode or "+" in self.mode

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return 0

    def tell(self):
        return 0

    def truncate(self, size=None):
        return 0

    def readinto(self, buffer):
        self._check(self.readable(), "readable")
        return 0

    def write(self, data):
        self._check(self.writable(), "writable")
        return memoryview(data).nbytes

    def _check(self, allowed, what):
        if not allowed:
            raise io.UnsupportedOperation(f"not {what}")


def _open(
    file,
    mode="r",
    buffering=-1,
    encoding=None,
    errors=None,
    newline=None,
    closefd=True,
    opener=None,
):
    if opener is None and type(file) in (str, bytes) and file in _NULL:
        return _open_null(file, mode, buffering, encoding, errors, newline, closefd)
    if opener is None and not isinstance(file, (str, bytes, int)) and hasattr(file, "__fspath__"):
        file = os.fspath(file)
        if file in _NULL:
            return _open_null(file, mode, buffering, encoding, errors, newline, closefd)
    opened = _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if mode != "r" and mode != "rb":
        identity = id(opened)
        _written[identity] = weakref.ref(opened, lambda _: _written.pop(identity, None))
    return opened


def _open_null(file, mode, buffering, encoding, errors, newline, closefd, module=io):
    """Opens the null device, with the classes of a module: `io`, or `_pyio`."""
    # The wrappers check their arguments as always, here on the null device.
    if not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    raw = _Null(mode.replace("b", "").replace("t", ""))
    kinds = [kind for kind in "rwxa" if kind in mode]
    if len(kinds) != 1 or not set(mode) <= set("rwxabt+") or ("b" in mode and "t" in mode):
        raise ValueError(f"invalid mode: {mode!r}")
    if kinds == ["x"]:
        raise FileExistsError(17, "File exists", file)
    raw.name = file
    if "b" not in mode:
        buffer = _buffered(raw, mode, module)
        text = module.TextIOWrapper(
            buffer, encoding, errors, newline, line_buffering=buffering == 1
        )
        text.mode = mode
        return text
    if encoding is not None or errors is not None or newline is not None:
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    return raw if buffering == 0 else _buffered(raw, mode, module)


def _buffered(raw, mode, module):
    if "+" in mode:
        return module.BufferedRandom(raw)
    return module.BufferedReader(raw) if raw.readable() else module.BufferedWriter(raw)


def _open_in_python(
    file,
    mode="r",
    buffering=-1,
    encoding=None,
    errors=None,
    newline=None,
    closefd=True,
    opener=None,
):
    if opener is None and not isinstance(file, int) and os.fspath(file) in _NULL:
        return _open_null(file, mode, buffering, encoding, errors, newline, closefd, _pyio)
    return _real_open_in_python(file, mode, buffering, encoding, errors, newline, closefd, opener)


def _chdir(path):
    # libc stores the directory as text and appends to it: after `chdir("..")` it would
    # be `/data/..`.
    name = os.fsdecode(path)
    _real_chdir(os.path.realpath(name) if ".." in name else path)
    here = os.getcwd()
    if "/." in here or "//" in here or here.endswith("/"):
        _real_chdir(os.path.realpath(here))


def path_of(fd):
    """Returns the path of a file that is open for writing, or None if it is not known."""
    for reference in _written.values():
        file = reference()
        if file is not None and not _is_closed(file):
            name = getattr(file, "name", None)
            if isinstance(name, (str, bytes)) and file.fileno() == fd:
                return name
    return None


def install():
    """Replaces `open` by a function that records opened files, and replaces `chdir`."""
    import _io
    import posix

    builtins.open = io.open = _io.open = Builtin(_open, _real_open)
    os.chdir = posix.chdir = Builtin(_chdir, _real_chdir)


def install_in_python_io():
    """Lets the implementation of `open` in Python open the null device, too.

    Not part of `install`, since that comes before the library is bundled.
    """
    global _pyio, _real_open_in_python
    import _pyio

    _real_open_in_python = _pyio.open
    _open_in_python.__module__ = _real_open_in_python.__module__
    _open_in_python.__name__ = _open_in_python.__qualname__ = "open"
    _open_in_python.__doc__ = _real_open_in_python.__doc__
    # As in that module: in a class it is not a method.
    _pyio.open = staticmethod(_open_in_python)


def flush(skipped):
    """Flushes open files. Costs nothing if no file is open."""
    if not _written:
        return
    opened = [file for reference in list(_written.values()) if (file := reference()) is not None]
    opened = [file for file in opened if not _is_closed(file)]
    if not opened:
        return
    # Other objects may buffer data for a binary file, such as a text wrapper.
    if not all(isinstance(file, io.TextIOWrapper) for file in opened):
        opened = [*filter(_is_buffered, gc.get_objects()), *opened]
    # Text wrappers first, since they write to the buffers below them.
    opened.sort(key=lambda file: not isinstance(file, io.TextIOWrapper))
    for file in opened:
        if not any(file is other for other in skipped) and not _is_closed(file):
            try:
                file.flush()
            except Exception:
                _report(file)


def _is_buffered(item):
    return type(item) in _BUFFERED


def _is_closed(file):
    try:
        return file.closed
    except Exception:
        # The file was detached, or its initialization failed.
        return True


def _report(file):
    # As for a failure while a file is destroyed: printed, but not raised.
    print(f"Exception ignored while flushing file {file!r}:", file=sys.stderr)
    traceback.print_exc()
