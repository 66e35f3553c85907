"""What the decompressors of bzip2, liblzma and Zstandard have in common.

A native module `_isola_*` only passes bytes to its library. `run` returns the output, the
end of the input that was consumed, and the library's result.
"""

from operator import index

from isola_guest import own_builtins as __builtins__  # noqa: A004

# The results of `run` that are not errors.
OK, END = 0, 1


class Unpicklable:
    """An object around a native stream, which cannot be copied."""

    __slots__ = ()

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


class Decompressor(Unpicklable):
    """A decompressor with the attributes that those of CPython have.

    A subclass has the function `_run` of its library, and `_check`, which raises the
    exception of a result that is an error.
    """

    __slots__ = ("_stream", "_rest", "_position", "_eof", "_needs_input", "_unused_data")

    @classmethod
    def _with(cls, stream):
        self = object.__new__(cls)
        self._stream = stream
        # The input that is not consumed is that of `_rest` from `_position`.
        self._rest, self._position = b"", 0
        self._eof = False
        self._needs_input = True
        self._unused_data = b""
        return self

    @property
    def eof(self):
        """Whether the end of the stream was reached."""
        return self._eof

    @property
    def needs_input(self):
        """Whether more input is needed before more output can be returned."""
        return self._needs_input

    @property
    def unused_data(self):
        """The input after the end of the stream."""
        return self._unused_data

    def _decompress(self, data, max_length):
        max_length = index(max_length)
        start = 0
        if self._rest:
            rest, start = self._rest, self._position
            with memoryview(data) as view:
                empty = not view.nbytes
            if empty:
                data = rest
            else:
                data, start = b"".join((memoryview(rest)[start:], data)), 0
        output, position, result = self._run(self._stream, data, start, max_length, 0)
        self._rest, self._position = b"", 0
        self._check(result)
        if type(data) is bytes:
            left = len(data) - position
        else:
            with memoryview(data) as view:
                left = view.nbytes - position
                if left:
                    data, position = view.tobytes()[position:], 0
        if result == END:
            self._eof = True
            self._needs_input = False
            if left:
                self._unused_data = data[position:]
        elif left:
            self._rest, self._position = data, position
            self._needs_input = False
        else:
            # The library may hold output for which there was no space.
            self._needs_input = not 0 <= max_length == len(output)
        return output
