"""CPython's module `_bz2`, on top of the native module `_isola_bzip2`."""

from operator import index

import _isola_bzip2
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
    """Create a compressor object for compressing data incrementally.

    compresslevel
      Compression level, as a number between 1 and 9.
    """

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
        """Provide data to the compressor object.

        Returns a chunk of compressed data if possible, or b'' otherwise.
        """
        if self._flushed:
            raise ValueError("Compressor has been flushed")
        output, _, result = _isola_bzip2.run(self._stream, data, 0, -1, _COMPRESS)
        _check(result)
        return output

    def flush(self):
        """Finish the compression process.

        Returns the compressed data left in internal buffers.
        """
        if self._flushed:
            raise ValueError("Repeated call to flush()")
        self._flushed = True
        output, _, result = _isola_bzip2.run(self._stream, b"", 0, -1, _FINISH)
        _check(result)
        return output


class BZ2Decompressor(Decompressor):
    """Create a decompressor object for decompressing data incrementally."""

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
        """Decompress *data*, returning uncompressed data as bytes.

        If *max_length* is nonnegative, returns at most *max_length* bytes of decompressed
        data. If this limit is reached and further output can be produced, *needs_input* is
        False, and the next call may provide b''.
        """
        if self._eof:
            raise EOFError("End of stream already reached")
        if self._failed:
            raise ValueError("Decompressor is unusable after a previous error")
        return self._decompress(data, max_length)
