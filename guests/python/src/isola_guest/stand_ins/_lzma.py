"""A replacement for liblzma, which this interpreter was built without.

Some packages import `lzma` without using it. So the import succeeds, and operations fail
with the exception that callers of the real module expect.
"""

_UNAVAILABLE = "LZMA is not available in this guest: use zlib or gzip"

# The values are those of the library's headers.
CHECK_NONE, CHECK_CRC32, CHECK_CRC64, CHECK_SHA256 = 0, 1, 4, 10
CHECK_ID_MAX, CHECK_UNKNOWN = 15, 16
FILTER_LZMA1, FILTER_LZMA2 = 0x4000000000000001, 0x21
FILTER_DELTA, FILTER_X86, FILTER_POWERPC, FILTER_IA64 = 0x03, 0x04, 0x05, 0x06
FILTER_ARM, FILTER_ARMTHUMB, FILTER_SPARC = 0x07, 0x08, 0x09
FORMAT_AUTO, FORMAT_XZ, FORMAT_ALONE, FORMAT_RAW = range(4)
MF_HC3, MF_HC4, MF_BT2, MF_BT3, MF_BT4 = 0x03, 0x04, 0x12, 0x13, 0x14
MODE_FAST, MODE_NORMAL = 1, 2
PRESET_DEFAULT, PRESET_EXTREME = 6, 1 << 31


class LZMAError(Exception):
    __module__ = "lzma"


class LZMACompressor:
    def __init__(self, format=FORMAT_XZ, check=-1, preset=None, filters=None):
        pass

    def compress(self, data, /):
        raise LZMAError(_UNAVAILABLE)

    def flush(self):
        raise LZMAError(_UNAVAILABLE)


class LZMADecompressor:
    check = CHECK_UNKNOWN
    eof = False
    needs_input = True
    unused_data = b""

    def __init__(self, format=FORMAT_AUTO, memlimit=None, filters=None):
        pass

    def decompress(self, data, max_length=-1):
        raise LZMAError(_UNAVAILABLE)


def is_check_supported(check_id, /):
    return False


def _encode_filter_properties(filter, /):
    raise LZMAError(_UNAVAILABLE)


def _decode_filter_properties(filter_id, encoded_props, /):
    raise LZMAError(_UNAVAILABLE)
