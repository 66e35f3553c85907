"""CPython's module `_lzma`, on top of the native module `_isola_xz`."""

from operator import index
from struct import Struct

import _isola_xz
from isola_guest import own_builtins as __builtins__  # noqa: A004
from isola_guest.streams import Decompressor, Unpicklable

FORMAT_AUTO, FORMAT_XZ, FORMAT_ALONE, FORMAT_RAW = range(4)

# The values are those of the library's headers.
CHECK_NONE, CHECK_CRC32, CHECK_CRC64, CHECK_SHA256 = 0, 1, 4, 10
CHECK_ID_MAX, CHECK_UNKNOWN = 15, 16
FILTER_LZMA1, FILTER_LZMA2 = 0x4000000000000001, 0x21
FILTER_DELTA, FILTER_X86, FILTER_POWERPC, FILTER_IA64 = 0x03, 0x04, 0x05, 0x06
FILTER_ARM, FILTER_ARMTHUMB, FILTER_SPARC = 0x07, 0x08, 0x09
MF_HC3, MF_HC4, MF_BT2, MF_BT3, MF_BT4 = 0x03, 0x04, 0x12, 0x13, 0x14
MODE_FAST, MODE_NORMAL = 1, 2
PRESET_DEFAULT, PRESET_EXTREME = 6, 1 << 31

_FINISH = 1
_MAX_FILTERS = 4
_BCJ = (FILTER_X86, FILTER_POWERPC, FILTER_IA64, FILTER_ARM, FILTER_ARMTHUMB, FILTER_SPARC)
# The options of LZMA in the order of the native module, each with its C type.
_LZMA_OPTIONS = {
    "dict_size": "uint32_t",
    "lc": "uint32_t",
    "lp": "uint32_t",
    "pb": "uint32_t",
    "mode": "lzma_mode",
    "nice_len": "uint32_t",
    "mf": "lzma_match_finder",
    "depth": "uint32_t",
}
# A filter for the native module: its id and eight options.
_FILTER, _ID = Struct("<Q8I"), Struct("<Q")
_UINT32_MAX, _UINT64_MAX = (1 << 32) - 1, (1 << 64) - 1

# The results of the library that are errors.
_ERRORS = {
    3: "Unsupported integrity check",
    6: "Memory usage limit exceeded",
    7: "Input format not supported by decoder",
    8: "Invalid or unsupported options",
    9: "Corrupt input data",
    10: "Insufficient buffer space",
    11: "Internal error",
}
_MEMORY = 5


class LZMAError(Exception):
    """An error of liblzma."""


def _check(result):
    if result > 1:
        if result == _MEMORY:
            raise MemoryError
        raise LZMAError(_ERRORS.get(result, f"Unrecognized error from liblzma: {result}"))


def _stream(created):
    """Returns a new stream, or raises the error that was returned in its place."""
    if isinstance(created, int):
        _check(created)
    return created


def _uint32(value, type="uint32_t"):
    value = index(value)
    if value < 0:
        raise OverflowError("can't convert negative int to unsigned")
    if value > _UINT32_MAX:
        raise OverflowError(f"Value too large for {type} type")
    return value


def _uint64(value):
    if not isinstance(value, int):
        raise TypeError(f"int expected instead of {type(value).__name__} instance")
    if value < 0:
        raise OverflowError("can't convert negative int to unsigned")
    if value > _UINT64_MAX:
        raise OverflowError("int too big to convert")
    return value


def _int(value):
    value = index(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
    return value


def _pack(id, options):
    return _FILTER.pack(id, *options, *[0] * (8 - len(options)))


def _is_lzma1(packed):
    return packed[:8] == _ID.pack(FILTER_LZMA1) and len(packed) == _FILTER.size


def _preset(preset):
    options = _isola_xz.preset(preset)
    if options is None:
        raise LZMAError(f"Invalid compression preset: {preset}")
    return options


def _options(spec, known, kind):
    """Returns the options of a filter, by name, without `id`."""
    options = {}
    for name in spec.keys():
        if name == "id":
            continue
        if name not in known:
            raise ValueError(f"Invalid filter specifier for {kind} filter")
        options[name] = spec[name]
    return options


def _pack_filter(spec):
    if not (hasattr(type(spec), "__getitem__") and hasattr(spec, "keys")):
        raise TypeError("Filter specifier must be a dict or dict-like object")
    try:
        id = spec["id"]
    except KeyError:
        raise ValueError('Filter specifier must have an "id" entry') from None
    id = _uint64(id)
    if id in (FILTER_LZMA1, FILTER_LZMA2):
        options = _options(spec, {"preset", *_LZMA_OPTIONS}, "LZMA")
        defaults = _preset(_uint32(options.get("preset", PRESET_DEFAULT)))
        values = [
            _uint32(options[name], type) if name in options else default
            for (name, type), default in zip(_LZMA_OPTIONS.items(), defaults, strict=True)
        ]
        return _pack(id, values)
    if id == FILTER_DELTA:
        options = _options(spec, {"dist"}, "delta")
        return _pack(id, [_uint32(options.get("dist", 1))])
    if id in _BCJ:
        options = _options(spec, {"start_offset"}, "BCJ")
        return _pack(id, [_uint32(options.get("start_offset", 0))])
    raise ValueError(f"Invalid filter ID: {id}")


def _pack_filters(specs):
    if isinstance(specs, dict):
        raise TypeError("object of type 'dict' is not a sequence")
    if len(specs) > _MAX_FILTERS:
        raise ValueError(f"Too many filters - liblzma supports a maximum of {_MAX_FILTERS}")
    return b"".join([_pack_filter(specs[at]) for at in range(len(specs))])


class LZMACompressor(Unpicklable):
    """Compresses data in parts.

    `format` is the container, and `check` the integrity check in it, which only FORMAT_XZ
    has. The settings are those of a `preset`, or of a list of `filters`.
    """

    __slots__ = ("_stream", "_flushed")

    def __new__(cls, format=FORMAT_XZ, check=-1, preset=None, filters=None):
        format, check = _int(format), _int(check)
        if preset is not None and filters is not None:
            raise ValueError("Cannot specify both preset and filter chain")
        number = PRESET_DEFAULT if preset is None else index(preset)
        if number < 0:
            raise ValueError("Cannot convert negative int")
        _uint32(number)
        if format != FORMAT_XZ and check not in (-1, CHECK_NONE):
            raise ValueError("Integrity checks are only supported by FORMAT_XZ")
        if format == FORMAT_XZ:
            if check == -1:
                check = CHECK_CRC64
            if filters is None:
                options = _isola_xz.preset(number)
                if options is None:
                    raise LZMAError("Invalid or unsupported options")
                packed = _pack(FILTER_LZMA2, options)
            else:
                packed = _pack_filters(filters)
        elif format == FORMAT_ALONE:
            if filters is None:
                packed = _pack(FILTER_LZMA1, _preset(number))
            else:
                packed = _pack_filters(filters)
                if not _is_lzma1(packed):
                    raise ValueError(
                        "Invalid filter chain for FORMAT_ALONE - must be a single LZMA1 filter"
                    )
        elif format == FORMAT_RAW:
            if filters is None:
                raise ValueError("Must specify filters for FORMAT_RAW")
            packed = _pack_filters(filters)
        else:
            raise ValueError(f"Invalid container format: {format}")
        self = object.__new__(cls)
        self._stream = _stream(_isola_xz.compressor(format, check, packed))
        self._flushed = False
        return self

    def compress(self, data, /):
        """Compresses data, and returns the output that is complete, which may be empty."""
        if self._flushed:
            raise ValueError("Compressor has been flushed")
        output, _, result = _isola_xz.run(self._stream, data, 0, -1, 0)
        _check(result)
        return output

    def flush(self):
        """Ends the compressed data, and returns the rest of it."""
        if self._flushed:
            raise ValueError("Repeated call to flush()")
        self._flushed = True
        output, _, result = _isola_xz.run(self._stream, b"", 0, -1, _FINISH)
        _check(result)
        return output


class LZMADecompressor(Decompressor):
    """Decompresses one stream in parts.

    `format` is the container, `memlimit` the number of bytes that the library may use, and
    `filters` those of FORMAT_RAW, which does not contain them itself.
    """

    __slots__ = ()
    _run = staticmethod(_isola_xz.run)
    _check = staticmethod(_check)

    def __new__(cls, format=FORMAT_AUTO, memlimit=None, filters=None):
        format = _int(format)
        limit = _UINT64_MAX
        if memlimit is not None:
            if format == FORMAT_RAW:
                raise ValueError("Cannot specify memory limit with FORMAT_RAW")
            limit = _uint64(memlimit)
        packed = b""
        if format == FORMAT_RAW:
            if filters is None:
                raise ValueError("Must specify filters for FORMAT_RAW")
            packed = _pack_filters(filters)
        elif filters is not None:
            raise ValueError("Cannot specify filters except with FORMAT_RAW")
        if format not in (FORMAT_AUTO, FORMAT_XZ, FORMAT_ALONE, FORMAT_RAW):
            raise ValueError(f"Invalid container format: {format}")
        return cls._with(_stream(_isola_xz.decompressor(format, limit, packed)))

    @property
    def check(self):
        """The integrity check in the stream, or CHECK_UNKNOWN before it was read."""
        return _isola_xz.check(self._stream)

    def decompress(self, data, max_length=-1):
        """Returns the data that the next input decompresses to.

        With a `max_length` that is not negative, it is at most so many bytes, and a later
        call returns the rest.
        """
        if self._eof:
            raise EOFError("Already at end of stream")
        return self._decompress(data, max_length)


def is_check_supported(check_id, /):
    """Returns whether the library has an integrity check."""
    return bool(_isola_xz.is_check_supported(check_id))


def _encode_filter_properties(filter, /):
    """Returns the options of a filter in the form that containers store."""
    return _stream(_isola_xz.encode_properties(_pack_filter(filter)))


def _decode_filter_properties(filter_id, encoded_props, /):
    """Returns a filter with the options that a container stores."""
    filter_id = _uint64(filter_id)
    options = _stream(_isola_xz.decode_properties(filter_id, encoded_props))
    if filter_id == FILTER_LZMA1:
        names = ("dict_size", "lc", "lp", "pb")
    elif filter_id == FILTER_LZMA2:
        names = ("dict_size",)
    elif filter_id == FILTER_DELTA:
        names = ("dist",)
    elif filter_id in _BCJ:
        names = ("start_offset",)
    else:
        raise ValueError(f"Invalid filter ID: {filter_id}")
    return {"id": filter_id, **dict(zip(names, options, strict=False))}
