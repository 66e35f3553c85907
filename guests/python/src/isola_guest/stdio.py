"""`sys.stdin`, `sys.stdout` and `sys.stderr`, over the contract's plain calls."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import codecs
import io
import sys

from wit_world.imports import host

from . import files


# What is handed over at once.
_PIECE = 1024 * 1024


class _Empty(io.RawIOBase):
    """Standard input, of which there is none."""

    name = "<stdin>"
    mode = "rb"

    def readable(self):
        return True

    def fileno(self):
        return 0

    def readinto(self, buffer):
        return 0


class _Writer(io.RawIOBase):
    """Sends bytes to the host as text. Bytes that are not UTF-8 are replaced."""

    mode = "wb"

    def __init__(self, send, number, name, before=None):
        self._send = send
        self._number = number
        self.name = name
        self._before = before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self):
        return True

    def fileno(self):
        return self._number

    def write(self, data):
        if self._before is not None and not self._before.closed:
            self._before.flush()
        data = bytes(data[:_PIECE])
        text = self._decoder.decode(data)
        if text:
            self._send(text)
        return len(data)


class _Marked(io.TextIOWrapper):
    """Knows whether there is anything to hand over: asking saves a flush."""

    marked = False

    def write(self, text):
        self.marked = True
        return super().write(text)


def _text(kind, buffer):
    text = kind(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    text.mode = "w"
    return text


# Much is printed to the one, and little to the other.
_stdout_buffer = io.BufferedWriter(_Writer(lambda text: host.stdout(text), 1, "<stdout>"), 64 * 1024)
_stdout = _text(io.TextIOWrapper, _stdout_buffer)
_stderr_buffer = io.BufferedWriter(
    _Writer(lambda text: host.stderr(text), 2, "<stderr>", before=_stdout_buffer), 64 * 1024
)
_stderr = _text(_Marked, _stderr_buffer)


def install():
    """Makes them the standard streams. Reading finds the end of the input."""
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(_Empty()), encoding="utf-8")
    sys.stdin.mode = "r"
    sys.stdout = sys.__stdout__ = _stdout
    sys.stderr = sys.__stderr__ = _stderr


def flush():
    """Hands over what is still buffered: at the end of a call, and before a wait."""
    if sys.stdout is _stdout and sys.stderr is _stderr:
        try:
            _stdout.flush()
            if _stderr.marked:
                _stderr.marked = False
                _stderr.flush()
            return
        except ValueError:
            # User code has closed or detached one of them.
            pass
    _flush_all()


def flush_files():
    """Writes what open files hold back: at the end of a call."""
    files.flush((_stdout, _stderr))


def _flush_all():
    # User code has put others in their place, perhaps over the same buffers.
    _stderr.marked = False
    for stream in (sys.stdout, sys.stderr, _stdout, _stderr, _stdout_buffer, _stderr_buffer):
        try:
            if not stream.closed:
                stream.flush()
        except Exception:
            # It has no such method, is detached, or fails: not for this call to say.
            pass
