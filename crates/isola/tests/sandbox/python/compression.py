import bz2
import gc
import io
import lzma
import shutil
import sys
import tarfile
import zipfile
from compression import zstd

DATA = b"".join(b"line %d of a text that repeats itself\n" % (n % 300) for n in range(5000))
CODECS = {"bz2": bz2, "lzma": lzma, "zstd": zstd}
COMPRESSORS = {
    "bz2": bz2.BZ2Compressor,
    "lzma": lzma.LZMACompressor,
    "zstd": zstd.ZstdCompressor,
}
DECOMPRESSORS = {
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
    "zstd": zstd.ZstdDecompressor,
}


def small(codec, data):
    """Compresses with little memory."""
    return codec.compress(data, preset=0) if codec is lzma else codec.compress(data)


def known_data():
    """Decompresses data that other programs have written."""
    rows = [
        (
            bz2,
            "425a683931415926535959ce7bcb000002018004049080200030cd00c1a4c0717724538509059ce7bcb0",
        ),
        (
            lzma,
            "fd377a585a000004e6d6b4460200210116000000742fe5a3010004776f726c6400000000f858e154"
            "fafc103e00011d05b82d80af1fb6f37d010000000004595a",
        ),
        (zstd, "28b52ffd0058290000776f726c64"),
    ]
    return [codec.decompress(bytes.fromhex(data)).decode() for codec, data in rows]


def round_trips():
    seen = []
    for codec in CODECS.values():
        for data in (b"", b"x", DATA, memoryview(DATA)[7:], bytearray(1 << 20)):
            packed = codec.compress(data)
            seen.append(codec.decompress(packed) == data and len(packed) < len(data) + 100)
        with codec.open(file := io.BytesIO(), "w") as stream:
            stream.write(DATA)
        with codec.open(io.BytesIO(file.getvalue())) as stream:
            seen.append(stream.readlines() == DATA.splitlines(keepends=True))
    return seen


def in_parts():
    """Decompresses with limits, and returns whether each of them was obeyed."""
    seen = []
    for name, codec in CODECS.items():
        packed = codec.compress(DATA) + b"rest"
        for size, limit in ((1, 1000), (10, 7), (1 << 20, 100), (1 << 20, -1)):
            stream = DECOMPRESSORS[name]()
            parts = io.BytesIO()
            at = 0
            while not stream.eof:
                given = b""
                if stream.needs_input:
                    given, at = packed[at : at + size], at + size
                part = stream.decompress(given, limit)
                seen.append(limit < 0 or len(part) <= limit)
                parts.write(part)
            rest = stream.unused_data + packed[at:]
            seen.append(parts.getvalue() == DATA and rest == b"rest" and not stream.needs_input)
    return all(seen)


def archives():
    names = []
    for kind in ("gz", "bz2", "xz", "zst"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
            member = tarfile.TarInfo(kind)
            member.size = len(DATA)
            archive.addfile(member, io.BytesIO(DATA))
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            names += [one.name for one in archive if archive.extractfile(one).read() == DATA]
    for kind in ("STORED", "DEFLATED", "BZIP2", "LZMA", "ZSTANDARD"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", getattr(zipfile, f"ZIP_{kind}")) as archive:
            archive.writestr(kind, DATA)
        with zipfile.ZipFile(file) as archive:
            names += [one for one in archive.namelist() if archive.read(one) == DATA]
    return [names, [name for name, _ in shutil.get_archive_formats()]]


def attempt(expression):
    try:
        return repr(eval(expression))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def errors(expressions):
    return [attempt(expression) for expression in expressions]


def fast_compressor(name):
    """Creates a compressor that takes little time."""
    return lzma.LZMACompressor(preset=0) if name == "lzma" else COMPRESSORS[name]()


def bomb(name):
    """Decompresses much more data than fits into the memory."""
    stream = fast_compressor(name)
    zeros = bytes(1 << 20)
    packed = b"".join([stream.compress(zeros) for _ in range(160)]) + stream.flush()
    return len(CODECS[name].decompress(packed))


def bomb_in_parts(name):
    stream = fast_compressor(name)
    zeros = bytes(1 << 20)
    packed = b"".join([stream.compress(zeros) for _ in range(160)]) + stream.flush()
    with CODECS[name].open(io.BytesIO(packed)) as file:
        return sum(iter(lambda: len(file.read(1 << 20)), 0))


class Reentrant:
    """A buffer that uses the stream to which it is given."""

    def __init__(self, stream):
        self.stream = stream

    def __buffer__(self, flags):
        self.before = self.stream.compress(b"first ")
        return memoryview(b"second ")

    def __release_buffer__(self, view):
        self.after = self.stream.compress(b"third")


def reentrant(name):
    stream = COMPRESSORS[name]()
    buffer = Reentrant(stream)
    packed = stream.compress(buffer)
    packed = buffer.before + packed + buffer.after + stream.flush()
    return CODECS[name].decompress(packed).decode()


def resized_while_lent():
    """A buffer cannot be resized while a library reads it, not even by a destructor."""
    data = bytearray(DATA)
    packed = bz2.compress(data)
    data.clear()
    return bz2.decompress(packed) == DATA


def in_collection():
    """A destructor uses the stream. A garbage collection runs it, in the middle of a step."""
    gc.set_threshold(1 << 30)
    stream = zstd.ZstdCompressor(19)
    seen = []

    class Cycle:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            try:
                stream.compress(b"x")
            except RuntimeError as error:
                seen.append(str(error))

    kept = []
    try:
        while True:
            kept.append(bytearray(1 << 20))
    except MemoryError:
        pass
    Cycle()
    try:
        stream.compress(b"x")
    except (MemoryError, zstd.ZstdError):
        pass
    kept.clear()
    return seen


def deep():
    """A library is called where little of the stack is left."""
    sys.setrecursionlimit(1 << 20)
    seen = set()

    def descend(codec):
        try:
            max([0], key=lambda _: descend(codec))
        except RecursionError:
            pass
        if len(seen) < 2:
            try:
                codec.decompress(small(codec, b"x" * 1000))
                seen.add("worked")
            except RecursionError:
                seen.add("refused")

    for codec in CODECS.values():
        seen.clear()
        descend(codec)
        if seen != {"worked", "refused"}:
            return [codec.__name__, *seen]
    return "both"


# Streams that were begun, and their output.
half = {}


def begin():
    for name, make in COMPRESSORS.items():
        half[name] = stream = make()
        half[f"{name} output"] = stream.compress(DATA)


def end():
    seen = []
    for name, codec in CODECS.items():
        stream = half[name]
        packed = half[f"{name} output"] + stream.compress(b"end") + stream.flush()
        seen.append(codec.decompress(packed) == DATA + b"end")
    half.clear()
    return seen


def imported_again():
    for name in list(sys.modules):
        if name.startswith(("_isola_", "_bz2", "_lzma", "_zstd", "bz2", "lzma", "compression")):
            del sys.modules[name]
    import bz2
    import lzma
    from compression import zstd

    codecs = [(bz2, {}), (lzma, {"preset": 0}), (zstd, {})]
    return [codec.decompress(codec.compress(DATA, **args)) == DATA for codec, args in codecs]
