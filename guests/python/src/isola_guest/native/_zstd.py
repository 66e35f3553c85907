"""CPython's module `_zstd`, on top of the native module `_isola_zstd`."""

from operator import index
from struct import pack

import _isola_zstd
from isola_guest import own_builtins as __builtins__  # noqa: A004
from isola_guest.streams import Decompressor, Unpicklable

zstd_version, zstd_version_number = _isola_zstd.version()

ZSTD_CLEVEL_DEFAULT = 3
# The size of a block and of its header.
ZSTD_DStreamOutSize = 1 << 17

# The values are those of the library's headers.
ZSTD_c_compressionLevel = 100
ZSTD_c_windowLog = 101
ZSTD_c_hashLog = 102
ZSTD_c_chainLog = 103
ZSTD_c_searchLog = 104
ZSTD_c_minMatch = 105
ZSTD_c_targetLength = 106
ZSTD_c_strategy = 107
ZSTD_c_enableLongDistanceMatching = 160
ZSTD_c_ldmHashLog = 161
ZSTD_c_ldmMinMatch = 162
ZSTD_c_ldmBucketSizeLog = 163
ZSTD_c_ldmHashRateLog = 164
ZSTD_c_contentSizeFlag = 200
ZSTD_c_checksumFlag = 201
ZSTD_c_dictIDFlag = 202
ZSTD_c_nbWorkers = 400
ZSTD_c_jobSize = 401
ZSTD_c_overlapLog = 402
ZSTD_d_windowLogMax = 100
ZSTD_fast = 1
ZSTD_dfast = 2
ZSTD_greedy = 3
ZSTD_lazy = 4
ZSTD_lazy2 = 5
ZSTD_btlazy2 = 6
ZSTD_btopt = 7
ZSTD_btultra = 8
ZSTD_btultra2 = 9

# The names of parameters in messages.
_COMPRESSION_PARAMETERS = {
    ZSTD_c_compressionLevel: "compression_level",
    ZSTD_c_windowLog: "window_log",
    ZSTD_c_hashLog: "hash_log",
    ZSTD_c_chainLog: "chain_log",
    ZSTD_c_searchLog: "search_log",
    ZSTD_c_minMatch: "min_match",
    ZSTD_c_targetLength: "target_length",
    ZSTD_c_strategy: "strategy",
    ZSTD_c_enableLongDistanceMatching: "enable_long_distance_matching",
    ZSTD_c_ldmHashLog: "ldm_hash_log",
    ZSTD_c_ldmMinMatch: "ldm_min_match",
    ZSTD_c_ldmBucketSizeLog: "ldm_bucket_size_log",
    ZSTD_c_ldmHashRateLog: "ldm_hash_rate_log",
    ZSTD_c_contentSizeFlag: "content_size_flag",
    ZSTD_c_checksumFlag: "checksum_flag",
    ZSTD_c_dictIDFlag: "dict_id_flag",
    ZSTD_c_nbWorkers: "nb_workers",
    ZSTD_c_jobSize: "job_size",
    ZSTD_c_overlapLog: "overlap_log",
}
_DECOMPRESSION_PARAMETERS = {ZSTD_d_windowLogMax: "window_log_max"}

# The ways to use a dictionary.
_DIGESTED, _UNDIGESTED, _PREFIX = range(3)

_CONTENT_SIZE_UNKNOWN, _CONTENT_SIZE_ERROR = (1 << 64) - 1, (1 << 64) - 2

# The classes that `set_parameter_types` names.
_parameter_types = [None, None]


class ZstdError(Exception):
    """An error of the library."""

    __module__ = "compression.zstd"


def _fail(action, code):
    raise ZstdError(f"Unable to {action}: {_isola_zstd.error_text(code)}")


def _int(value):
    value = index(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
    return value


def _size(value):
    value = index(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return value


def _bytes(function, number, value):
    if not isinstance(value, bytes):
        name = type(value).__name__
        raise TypeError(f"{function}() argument {number} must be bytes, not {name}")


def _set_parameter(stream, key, value, compresses):
    if _isola_zstd.set_parameter(stream, key, value) >= 0:
        return
    kind = "compression" if compresses else "decompression"
    names = _COMPRESSION_PARAMETERS if compresses else _DECOMPRESSION_PARAMETERS
    name = names.get(key, f"unknown parameter (key {key})")
    bounds = _isola_zstd.bounds(key, compresses)
    if isinstance(bounds, int):
        raise ValueError(f"invalid {kind} parameter '{name}'")
    low, high = bounds
    raise ValueError(
        f"{kind} parameter '{name}' received an illegal value {value}; "
        f"the valid range is [{low}, {high}]"
    )


class ZstdDict:
    """A dictionary, which compressors and decompressors can share.

    Unless `is_raw` is true, it must have the format of dictionaries.
    """

    __module__ = "compression.zstd"
    __slots__ = ("_content", "_id", "_compression", "_decompression")

    def __new__(cls, dict_content, /, *, is_raw=False):
        with memoryview(dict_content) as view:
            content = view.tobytes()
        if len(content) < 8:
            raise ValueError(
                "Zstandard dictionary content too short (must have at least eight bytes)"
            )
        id = _isola_zstd.dictionary_id(content)
        if not is_raw and not id:
            raise ValueError("invalid Zstandard dictionary")
        self = object.__new__(cls)
        self._content, self._id = content, id
        # The digested dictionary of each level, and the one for decompression.
        self._compression, self._decompression = {}, None
        return self

    @property
    def dict_content(self):
        """The bytes of the dictionary."""
        return self._content

    @property
    def dict_id(self):
        """The number of the dictionary, or 0 for one without the format."""
        return self._id

    @property
    def as_digested_dict(self):
        """The dictionary, to be used in the form that is prepared once for each level."""
        return (self, _DIGESTED)

    @property
    def as_undigested_dict(self):
        """The dictionary, to be used with all options of the compressor."""
        return (self, _UNDIGESTED)

    @property
    def as_prefix(self):
        """The content, to be used as data before the next frame."""
        return (self, _PREFIX)

    def __len__(self):
        return len(self._content)

    def __repr__(self):
        return f"<ZstdDict dict_id={self._id} dict_size={len(self._content)}>"

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _digested(self, level):
        """Returns the digested dictionary for a level, or for decompression if it is None."""
        if level is None:
            if self._decompression is None:
                self._decompression = _isola_zstd.digest_to_decompress(self._content)
            digested, name = self._decompression, "ZSTD_DDict"
        else:
            if self._compression.get(level) is None:
                self._compression[level] = _isola_zstd.digest_to_compress(self._content, level)
            digested, name = self._compression[level], "ZSTD_CDict"
        if digested is None:
            raise ZstdError(
                f"Failed to create a {name} instance from Zstandard dictionary content."
            )
        return digested


def _load(stream, dictionary, default, level):
    """Loads a dictionary, for decompression if `level` is None."""
    kind = default
    if isinstance(dictionary, tuple) and len(dictionary) == 2:
        dictionary, kind = dictionary
        if isinstance(kind, int):
            kind = _int(kind)
    if not (isinstance(dictionary, ZstdDict) and isinstance(kind, int) and 0 <= kind <= _PREFIX):
        raise TypeError("zstd_dict argument should be a ZstdDict object.")
    if kind == _DIGESTED:
        result = _isola_zstd.use_digested(stream, dictionary._digested(level))
    else:
        result = _isola_zstd.use_content(stream, dictionary._content, kind == _PREFIX)
    if result < 0:
        direction = "decompression" if level is None else "compression"
        _fail(f"load Zstandard dictionary or prefix for {direction}", result)


class ZstdCompressor(Unpicklable):
    """Compresses data in parts, into one or more frames.

    The settings are those of a `level`, or of `options`.
    """

    __module__ = "compression.zstd"
    __slots__ = ("_stream", "_last_mode")

    CONTINUE = 0
    FLUSH_BLOCK = 1
    FLUSH_FRAME = 2

    def __new__(cls, level=None, options=None, zstd_dict=None):
        if level is not None and options is not None:
            raise TypeError("Only one of level or options should be used.")
        stream = _isola_zstd.compressor()
        number = 0
        if level is not None:
            if not isinstance(level, int):
                raise TypeError("invalid type for level, expected int")
            number = _set_level(stream, level)
        if options is not None:
            if not isinstance(options, dict):
                raise TypeError("invalid type for options, expected dict")
            for key, value in list(options.items()):
                if _parameter_types[1] and isinstance(key, _parameter_types[1]):
                    raise TypeError(
                        "compression options dictionary key must not be a "
                        "DecompressionParameter attribute"
                    )
                key, value = _int(key), _int(value)
                if key == ZSTD_c_compressionLevel:
                    number = _set_level(stream, value)
                else:
                    _set_parameter(stream, key, value, True)
        if zstd_dict is not None:
            _load(stream, zstd_dict, _UNDIGESTED, number)
        self = object.__new__(cls)
        self._stream = stream
        self._last_mode = cls.FLUSH_FRAME
        return self

    @property
    def last_mode(self):
        """The mode of the last call, or FLUSH_FRAME."""
        return self._last_mode

    def compress(self, data, mode=CONTINUE):
        """Compresses data, and returns the output that is complete, which may be empty.

        With FLUSH_BLOCK, all data so far can be decompressed from the output so far; with
        FLUSH_FRAME, the frame ends.
        """
        mode = _int(mode)
        if mode not in (self.CONTINUE, self.FLUSH_BLOCK, self.FLUSH_FRAME):
            raise ValueError(
                "mode argument wrong value, it should be one of ZstdCompressor.CONTINUE, "
                "ZstdCompressor.FLUSH_BLOCK, ZstdCompressor.FLUSH_FRAME."
            )
        return self._compress(data, mode)

    def flush(self, mode=FLUSH_FRAME):
        """Ends a block or the frame, and returns the rest of the output."""
        mode = _int(mode)
        if mode not in (self.FLUSH_FRAME, self.FLUSH_BLOCK):
            raise ValueError(
                "mode argument wrong value, it should be ZstdCompressor.FLUSH_FRAME or "
                "ZstdCompressor.FLUSH_BLOCK."
            )
        return self._compress(b"", mode)

    def _compress(self, data, mode):
        output, _, result = _isola_zstd.run(self._stream, data, 0, -1, mode)
        if result < 0:
            # The library was reset.
            self._last_mode = self.FLUSH_FRAME
            _fail("compress Zstandard data", result)
        self._last_mode = mode
        return output

    def set_pledged_input_size(self, size, /):
        """Sets the size of the data of the next frame, or None if it is unknown.

        The frame contains it, unless an option forbids it.
        """
        if size is None:
            size = _CONTENT_SIZE_UNKNOWN
        elif not 0 <= index(size) < _CONTENT_SIZE_ERROR:
            raise ValueError(
                f"size argument should be a positive int less than {_CONTENT_SIZE_ERROR}"
            )
        if self._last_mode != self.FLUSH_FRAME:
            raise ValueError(
                "set_pledged_input_size() method must be called when last_mode == FLUSH_FRAME"
            )
        result = _isola_zstd.set_size(self._stream, index(size))
        if result < 0:
            _fail("set pledged uncompressed content size", result)


def _set_level(stream, level):
    low, high = _isola_zstd.bounds(ZSTD_c_compressionLevel, True)
    if not -(1 << 31) <= level < 1 << 31:
        raise ValueError(f"illegal compression level; the valid range is [{low}, {high}]")
    if not low <= level <= high:
        raise ValueError(f"illegal compression level {level}; the valid range is [{low}, {high}]")
    result = _isola_zstd.set_parameter(stream, ZSTD_c_compressionLevel, level)
    if result < 0:
        _fail("set zstd compression level", result)
    return level


class ZstdDecompressor(Decompressor):
    """Decompresses one frame in parts."""

    __module__ = "compression.zstd"
    __slots__ = ()
    _run = staticmethod(_isola_zstd.run)

    def __new__(cls, zstd_dict=None, options=None):
        stream = _isola_zstd.decompressor()
        if zstd_dict is not None:
            _load(stream, zstd_dict, _DIGESTED, None)
        if options is not None:
            if not isinstance(options, dict):
                raise TypeError("invalid type for options, expected dict")
            for key, value in list(options.items()):
                if _parameter_types[0] and isinstance(key, _parameter_types[0]):
                    raise TypeError(
                        "decompression options dictionary key must not be a "
                        "CompressionParameter attribute"
                    )
                _set_parameter(stream, _int(key), _int(value), False)
        return cls._with(stream)

    def _check(self, result):
        if result < 0:
            # The library was reset.
            self._needs_input = True
            _fail("decompress Zstandard data", result)

    def decompress(self, data, max_length=-1):
        """Returns the data that the next input decompresses to.

        With a `max_length` that is not negative, it is at most so many bytes, and a later
        call returns the rest.
        """
        if self._eof:
            raise EOFError("Already at the end of a Zstandard frame.")
        return self._decompress(data, max_length)


def _make_dictionary(function, samples_bytes, samples_sizes, dict_size, content, level):
    if not isinstance(samples_sizes, tuple):
        name = type(samples_sizes).__name__
        raise TypeError(f"{function}() argument 'samples_sizes' must be tuple, not {name}")
    dict_size = _size(dict_size)
    if dict_size <= 0:
        raise ValueError("dict_size argument should be positive number.")
    sizes = [index(size) for size in samples_sizes]
    for size in sizes:
        if not 0 <= size < 1 << 32:
            raise ValueError("Items in samples_sizes should be an int object, with a size_t value.")
    if sum(sizes) != len(samples_bytes):
        raise ValueError("The samples size tuple doesn't match the concatenation's size.")
    packed = pack(f"<{len(sizes)}I", *sizes)
    return _isola_zstd.make_dictionary(samples_bytes, packed, dict_size, content, level)


def train_dict(samples_bytes, samples_sizes, dict_size, /):
    """Returns the content of a dictionary for data that is similar to the samples."""
    _bytes("train_dict", 1, samples_bytes)
    made = _make_dictionary("train_dict", samples_bytes, samples_sizes, dict_size, b"", 0)
    if isinstance(made, int):
        _fail("train the Zstandard dictionary", made)
    return made


def finalize_dict(custom_dict_bytes, samples_bytes, samples_sizes, dict_size, compression_level, /):
    """Returns content with the header and the statistics that a dictionary has."""
    _bytes("finalize_dict", 1, custom_dict_bytes)
    _bytes("finalize_dict", 2, samples_bytes)
    level = _int(compression_level)
    # Empty content would train a dictionary; the library rejects one that is shorter.
    content = custom_dict_bytes or b"\0"
    made = _make_dictionary(
        "finalize_dict", samples_bytes, samples_sizes, dict_size, content, level
    )
    if isinstance(made, int):
        _fail("finalize the Zstandard dictionary", made)
    return made


def get_param_bounds(parameter, is_compress):
    """Returns the lowest and the highest value of a parameter."""
    bounds = _isola_zstd.bounds(_int(parameter), bool(is_compress))
    if isinstance(bounds, int):
        kind = "compression" if is_compress else "decompression"
        _fail(f"get zstd {kind} parameter bounds", bounds)
    return bounds


def get_frame_size(frame_buffer):
    """Returns the compressed size of the frame at the start of the data."""
    size = _isola_zstd.frame_size(frame_buffer)
    if size < 0:
        raise ZstdError(
            "Error when finding the compressed size of a Zstandard frame. Ensure the "
            "frame_buffer argument starts from the beginning of a frame, and its length is not "
            f"less than this complete frame. Zstd error message: {_isola_zstd.error_text(size)}."
        )
    return size


def get_frame_info(frame_buffer):
    """Returns the size of the content, or None, and the number of the dictionary."""
    size, id = _isola_zstd.frame_info(frame_buffer)
    if size == -2:
        raise ZstdError(
            "Error when getting information from the header of a Zstandard frame. Ensure the "
            "frame_buffer argument starts from the beginning of a frame, and its length is not "
            "less than the frame header (6~18 bytes)."
        )
    return (None if size == -1 else size), id


def set_parameter_types(c_parameter_type, d_parameter_type):
    """Sets the types of which an option must not be of the wrong one."""
    for given in (c_parameter_type, d_parameter_type):
        if not isinstance(given, type):
            raise TypeError(
                "The two arguments should be CompressionParameter and DecompressionParameter types."
            )
    _parameter_types[:] = c_parameter_type, d_parameter_type
