"""Decodes the content encodings gzip and deflate while a body is received."""

import zlib

# The maximum size of a decoded chunk, in bytes, since a few compressed bytes can expand
# to gigabytes.
_MAX_CHUNK_BYTES = 256 * 1024


class DecodedExchange:
    """An exchange with the body decoded."""

    def __init__(self, exchange, first, steps):
        self._exchange = exchange
        self._steps = steps
        self._chunks = _decode(steps, first) if first else iter(())
        self._ended = False

    # Unknown before the end of the decoded body.
    is_over = False

    async def next(self):
        """Returns the next bytes of the body, or `b""` at its end."""
        try:
            while True:
                if (chunk := next(self._chunks, None)) is not None:
                    return chunk
                if self._ended:
                    return b""
                data = await self._exchange.next()
                self._ended = not data
                self._chunks = _decode(self._steps, data)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Closes the connection."""
        self._ended = True
        self._chunks = iter(())
        self._exchange.close()


def steps(fields, failure):
    """Returns the decoders of the encodings that a response names, or `None`.

    Also `None` if one of them is unknown: the body is then returned unchanged.
    """
    values = [value for name, value in fields if name.lower() == "content-encoding"]
    names = [name.strip().lower() for value in values for name in value.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names or not all(name in _DECODERS for name in names):
        return None
    # Encodings are listed in the order in which they were applied.
    return [_DECODERS[name](failure) for name in reversed(names)]


def _decode(steps, data):
    """Returns the decoded chunks of some more bytes. Empty data ends the body."""
    chunks = [data]
    for step in steps:
        chunks = step.chunks(chunks, ends=not data)
    return iter(chunks)


class _Decoder:
    """The decoder of one encoding."""

    name = ""

    def __init__(self, failure):
        self._failure = failure
        self._stream = None
        self._started = False

    def chunks(self, encoded, ends):
        for chunk in encoded:
            if chunk:
                yield from self._feed(chunk)
        if ends:
            self._end()

    def _feed(self, data):
        while data:
            if self._stream is None:
                self._stream = self._start(data)
                self._started = True
            try:
                chunk = self._stream.decompress(data, _MAX_CHUNK_BYTES)
            except zlib.error as error:
                raise self._failure(f"the body is not valid {self.name} data: {error}") from None
            if chunk:
                yield chunk
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._rest(self._stream.unused_data)
            elif not data and len(chunk) == _MAX_CHUNK_BYTES:
                # There may be more output, although all input was consumed.
                yield from self._drain()

    def _end(self):
        # An empty body has nothing to decode.
        if self._started and self._stream is not None and not self._stream.eof:
            raise self._failure(f"the body ends within its {self.name} data")

    def _drain(self):
        while chunk := self._stream.decompress(b"", _MAX_CHUNK_BYTES):
            yield chunk

    def _rest(self, data):
        """Returns the data after the end that is still to be decoded, by default none."""
        return b""


class _Gzip(_Decoder):
    name = "gzip"

    def _start(self, data):
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def _rest(self, data):
        # Another gzip member may follow; anything else is padding.
        if data[:1] != b"\x1f":
            return b""
        self._stream = None
        return data


class _Deflate(_Decoder):
    name = "deflate"

    def _start(self, data):
        # The standard requires the zlib header, but some servers omit it.
        has_header = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
        if has_header and len(data) > 1:
            has_header = (data[0] << 8 | data[1]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


_DECODERS = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate}
