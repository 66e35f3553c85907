"""`sys.stdin`, `sys.stdout` and `sys.stderr`, over the contract's plain calls."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import codecs
import io
import sys

from wit_world.imports import host


# What is handed over at once.
_PIECE = 1024 * 1024


class _Writer(io.RawIOBase):
    """Sends bytes to the host as text. Bytes that are not UTF-8 are replaced."""

    def __init__(self, send, before=None):
        self._send = send
        self._before = before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self):
        return True

    def write(self, data):
        if self._before is not None:
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


def _text(kind, writer):
    buffer = io.BufferedWriter(writer, 64 * 1024)
    return kind(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


# Much is printed to the one, and little to the other.
_stdout = _text(io.TextIOWrapper, _Writer(lambda text: host.stdout(text)))
_stderr = _text(_Marked, _Writer(lambda text: host.stderr(text), before=_stdout))


def install():
    """Makes them the standard streams. Reading finds the end of the input."""
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.stdout = sys.__stdout__ = _stdout
    sys.stderr = sys.__stderr__ = _stderr


def flush():
    """Hands over what is still buffered: at the end of a call, and before a wait."""
    try:
        _stdout.flush()
        if _stderr.marked:
            _stderr.marked = False
            _stderr.flush()
    except ValueError:
        _flush_open()


def _flush_open():
    # User code has closed one of them.
    for stream in (_stdout, _stderr):
        if not stream.closed:
            stream.flush()
