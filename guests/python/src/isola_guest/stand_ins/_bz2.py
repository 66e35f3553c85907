"""Stands in for bzip2, which this interpreter was built without.

Packages import `bz2` that never use it. So the import works, and data is
refused, as an error that callers of the real module expect.
"""

_WHY = "bzip2 is not in this guest; zlib and gzip are"


class BZ2Compressor:
    def __init__(self, compresslevel=9, /):
        pass

    def compress(self, data, /):
        raise OSError(_WHY)

    def flush(self):
        raise OSError(_WHY)


class BZ2Decompressor:
    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data, max_length=-1):
        raise OSError(_WHY)
