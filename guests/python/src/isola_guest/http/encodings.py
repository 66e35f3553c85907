"""Content encodings of bodies: gzip and deflate, undone as the body comes."""

import zlib

# Compressed bodies of a few bytes can hold gigabytes: so much is given at once.
_PIECE = 256 * 1024


class Decoded:
    """An exchange whose body is given without its encodings."""

    def __init__(self, exchange, first, steps):
        self._exchange = exchange
        self._steps = steps
        self._pieces = _undo(steps, first) if first else iter(())
        self._ended = False

    # Only the end of the decoded body tells that nothing more comes.
    is_over = False

    async def next(self):
        """Some bytes of the body, or `b""` at its end."""
        try:
            while True:
                if (piece := next(self._pieces, None)) is not None:
                    return piece
                if self._ended:
                    return b""
                data = await self._exchange.next()
                self._ended = not data
                self._pieces = _undo(self._steps, data)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Closes the connection."""
        self._ended = True
        self._pieces = iter(())
        self._exchange.close()


def steps(fields, failure):
    """What undoes the encodings that a response names, or `None`.

    `None` also if one of them is not known: the body is given as it came.
    """
    values = [value for name, value in fields if name.lower() == "content-encoding"]
    names = [name.strip().lower() for value in values for name in value.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names or not all(name in _KINDS for name in names):
        return None
    # The last one was applied last.
    return [_KINDS[name](failure) for name in reversed(names)]


def _undo(steps, data):
    """The pieces of a body that some more bytes give; without any, it ends."""
    pieces = [data]
    for step in steps:
        pieces = step.pieces(pieces, ends=not data)
    return iter(pieces)


class _Inflated:
    """Undoes one encoding."""

    name = ""

    def __init__(self, failure):
        self._failure = failure
        self._stream = None
        self._begun = False

    def pieces(self, encoded, ends):
        for piece in encoded:
            if piece:
                yield from self._feed(piece)
        if ends:
            self._end()

    def _feed(self, data):
        while data:
            if self._stream is None:
                self._stream = self._begin(data)
                self._begun = True
            try:
                piece = self._stream.decompress(data, _PIECE)
            except zlib.error as error:
                raise self._failure(f"the body is not valid {self.name} data: {error}") from None
            if piece:
                yield piece
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._rest(self._stream.unused_data)
            elif not data and len(piece) == _PIECE:
                # There may be more, although all was taken.
                yield from self._drain()

    def _end(self):
        # A body without a single byte has nothing to undo.
        if self._begun and self._stream is not None and not self._stream.eof:
            raise self._failure(f"the body ends within its {self.name} data")

    def _drain(self):
        while piece := self._stream.decompress(b"", _PIECE):
            yield piece

    def _rest(self, data):
        """What follows the end: by itself that is nothing."""
        return b""


class _Gzip(_Inflated):
    name = "gzip"

    def _begin(self, data):
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def _rest(self, data):
        # Another member may follow; what else does is padding.
        if data[:1] != b"\x1f":
            return b""
        self._stream = None
        return data


class _Deflate(_Inflated):
    name = "deflate"

    def _begin(self, data):
        # By the standard with the head of zlib; some servers leave it out.
        has_head = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
        if has_head and len(data) > 1:
            has_head = (data[0] << 8 | data[1]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)


_KINDS = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate}
