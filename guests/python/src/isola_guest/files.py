"""Files that user code leaves open: what they hold back is written all the same.

CPython writes it when the objects die, at the end of the process. A sandbox goes
on after a call, and its host may look at a file in between.

The null device, which is no file here, and the working directory are made right
as well.
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

# Identity -> a weak reference to a file that was opened for writing.
_written = {}

# What can have a buffer of its own.
_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class _Null(io.RawIOBase):
    """The null device: nothing to read, and all that is written is dropped."""

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
    file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
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


def _open_null(file, mode, buffering, encoding, errors, newline, closefd):
    # The arguments are checked where they always are, on a file that is none.
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
        buffer = io.BufferedRandom(raw) if "+" in mode else _one_way(raw)
        text = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text
    if encoding is not None or errors is not None or newline is not None:
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if buffering == 0:
        return raw
    return io.BufferedRandom(raw) if "+" in mode else _one_way(raw)


def _one_way(raw):
    return io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)


def _chdir(path):
    # libc keeps the directory as text, and appends to it: after `chdir("..")` it
    # would be `/data/..`.
    name = os.fsdecode(path)
    _real_chdir(os.path.realpath(name) if ".." in name else path)
    here = os.getcwd()
    if "/." in here or "//" in here or here.endswith("/"):
        _real_chdir(os.path.realpath(here))


def install():
    """Makes `open`, wherever it is called by that name, remember what it opened."""
    import _io
    import posix

    builtins.open = io.open = _io.open = Builtin(_open, _real_open)
    os.chdir = posix.chdir = Builtin(_chdir, _real_chdir)


def flush(skipped):
    """Writes what open files hold back. Costs nothing if none is open."""
    if not _written:
        return
    opened = [file for reference in list(_written.values()) if (file := reference()) is not None]
    opened = [file for file in opened if not _is_closed(file)]
    if not opened:
        return
    # Others may hold back something for a binary file, such as the text for it.
    if not all(isinstance(file, io.TextIOWrapper) for file in opened):
        opened = [*filter(_is_above, gc.get_objects()), *opened]
    # Text first: it goes through the buffers below.
    opened.sort(key=lambda file: not isinstance(file, io.TextIOWrapper))
    for file in opened:
        if not any(file is other for other in skipped) and not _is_closed(file):
            try:
                file.flush()
            except Exception:
                _report(file)


def _is_above(item):
    return type(item) in _BUFFERED


def _is_closed(file):
    try:
        return file.closed
    except Exception:
        # It was detached, or never set up.
        return True


def _report(file):
    # As when it happens while a file dies: told, and raised to nobody.
    print(f"Exception ignored while flushing file {file!r}:", file=sys.stderr)
    traceback.print_exc()
