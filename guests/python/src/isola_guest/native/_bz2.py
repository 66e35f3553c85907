"""CPython's module `_bz2`, on top of the native module `_isola_bzip2`."""

from operator import index

import _isola_bzip2
from isola_guest import own_builtins as __builtins__  # noqa: A004
from isola_guest.streams import Decompressor, Unpicklable

_COMPRESS, _FINISH = 0, 2

# The results of the library that are errors.
_SEQUENCE, _PARAM, _MEMORY, _DATA, _MAGIC, _IO, _UNEXPECTED_EOF = range(-1, -8, -1)


def _check(result):
    if result >= 0:
        return
    if result == _MEMORY:
        raise MemoryError
    if result in (_DATA, _MAGIC):
        raise OSError("Invalid data stream")
    if result == _PARAM:
        raise ValueError("Internal error - invalid parameters passed to libbzip2")
    if result == _IO:
        raise OSError("Unknown I/O error")
    if result == _UNEXPECTED_EOF:
        raise EOFError("Compressed file ended before the logical end-of-stream marker was detected")
    if result == _SEQUENCE:
        raise RuntimeError("Internal error - Invalid sequence of commands sent to libbzip2")
    raise OSError(f"Unrecognized error from libbzip2: {result}")


class BZ2Compressor(Unpicklable):
    """Compresses data in parts, at a level from 1 to 9."""

    __slots__ = ("_stream", "_flushed")

    def __new__(cls, compresslevel=9, /):
        level = index(compresslevel)
        if not 1 <= level <= 9:
            raise ValueError("compresslevel must be between 1 and 9")
        self = object.__new__(cls)
        self._stream = _isola_bzip2.compressor(level)
        self._flushed = False
        return self

    def compress(self, data, /):
        """Compresses data, and returns the output that is complete, which may be empty."""
        if self._flushed:
            raise ValueError("Compressor has been flushed")
        output, _, result = _isola_bzip2.run(self._stream, data, 0, -1, _COMPRESS)
        _check(result)
        return output

    def flush(self):
        """Ends the compressed data, and returns the rest of it."""
        if self._flushed:
            raise ValueError("Repeated call to flush()")
        self._flushed = True
        output, _, result = _isola_bzip2.run(self._stream, b"", 0, -1, _FINISH)
        _check(result)
        return output


class BZ2Decompressor(Decompressor):
    """Decompresses one stream in parts."""

    __slots__ = ("_failed",)
    _run = staticmethod(_isola_bzip2.run)

    def __new__(cls):
        self = cls._with(_isola_bzip2.decompressor())
        self._failed = False
        return self

    def _check(self, result):
        if result < 0:
            self._failed = True
            self._needs_input = False
        _check(result)

    def decompress(self, data, max_length=-1):
        """Returns the data that the next input decompresses to.

        With a `max_length` that is not negative, it is at most so many bytes, and a later
        call returns the rest.
        """
        if self._eof:
            raise EOFError("End of stream already reached")
        if self._failed:
            raise ValueError("Decompressor is unusable after a previous error")
        return self._decompress(data, max_length)
