"""`sys.stdin`, `sys.stdout` and `sys.stderr`, implemented with functions of the host."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import codecs
import io
import sys

from wit_world.imports import host

from . import files


# The maximum number of bytes that are sent to the host at once.
_MAX_WRITE_BYTES = 1024 * 1024


class _EmptyInput(io.RawIOBase):
    """The standard input, which is always empty."""

    name = "<stdin>"
    mode = "rb"

    def readable(self):
        return True

    def fileno(self):
        return 0

    def readinto(self, buffer):
        return 0


class _Writer(io.RawIOBase):
    """A writer that sends bytes to the host as text. Invalid UTF-8 is replaced."""

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
        data = bytes(data[:_MAX_WRITE_BYTES])
        text = self._decoder.decode(data)
        if text:
            self._send(text)
        return len(data)


class _DirtyTracking(io.TextIOWrapper):
    """A text stream that records whether it was written to, which can save a flush."""

    dirty = False

    def write(self, text):
        self.dirty = True
        return super().write(text)


def _text(kind, buffer):
    text = kind(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    text.mode = "w"
    return text


# Output to stdout is frequent and output to stderr is rare, so only stderr is tracked.
_stdout_buffer = io.BufferedWriter(
    _Writer(lambda text: host.stdout(text), 1, "<stdout>"), 64 * 1024
)
_stdout = _text(io.TextIOWrapper, _stdout_buffer)
_stderr_buffer = io.BufferedWriter(
    _Writer(lambda text: host.stderr(text), 2, "<stderr>", before=_stdout_buffer), 64 * 1024
)
_stderr = _text(_DirtyTracking, _stderr_buffer)


def install():
    """Installs the standard streams. Reading returns the end of the input."""
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(_EmptyInput()), encoding="utf-8")
    sys.stdin.mode = "r"
    sys.stdout = sys.__stdout__ = _stdout
    sys.stderr = sys.__stderr__ = _stderr


def flush():
    """Sends buffered output to the host, at the end of a call and before a wait."""
    if sys.stdout is _stdout and sys.stderr is _stderr:
        try:
            _stdout.flush()
            if _stderr.dirty:
                _stderr.dirty = False
                _stderr.flush()
            return
        except ValueError:
            # User code has closed or detached one of them.
            pass
    _flush_all()


def flush_files():
    """Flushes files that user code left open, at the end of a call."""
    files.flush((_stdout, _stderr))


def _flush_all():
    # User code has replaced the streams, perhaps with others over the same buffers.
    _stderr.dirty = False
    for stream in (sys.stdout, sys.stderr, _stdout, _stderr, _stdout_buffer, _stderr_buffer):
        try:
            if not stream.closed:
                stream.flush()
        except Exception:
            # The stream has no such method, is detached, or fails; that is not an error here.
            pass
