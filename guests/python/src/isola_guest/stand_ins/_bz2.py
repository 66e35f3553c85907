"""A replacement for bzip2, which this interpreter was built without.

Some packages import `bz2` without using it. So the import succeeds, and operations fail
with the exception that callers of the real module expect.
"""

_UNAVAILABLE = "bzip2 is not available in this guest: use zlib or gzip"


class BZ2Compressor:
    def __init__(self, compresslevel=9, /):
        pass

    def compress(self, data, /):
        raise OSError(_UNAVAILABLE)

    def flush(self):
        raise OSError(_UNAVAILABLE)


class BZ2Decompressor:
    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data, max_length=-1):
        raise OSError(_UNAVAILABLE)
