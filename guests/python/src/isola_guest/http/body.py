"""The body of a request: what it is made of, and how it is sent."""

import io
import json
import os
import secrets

from wit_world.imports import host

# A body is sent in pieces of this size at most.
_PIECE = 256 * 1024

_BYTES = (bytes, bytearray, memoryview)

_NONE = host.RequestBody_None_()


class Body:
    """A body: what the contract calls it, and its pieces if it is streamed."""

    def __init__(self, whole=None, source=None, length=None, content_type=None):
        self.source = source
        self.length = length
        self.content_type = content_type
        self._whole = whole

    def announced(self, length=None):
        """What the request says of it. `length` is what user code states."""
        if self.source is not None:
            return host.RequestBody_Pieces(self.length if length is None else length)
        return _NONE if self._whole is None else host.RequestBody_Whole(self._whole)

    def pieces(self, blocking):
        """Its pieces, if it is streamed."""
        if self.source is None:
            return None
        if not hasattr(self.source, "__aiter__"):
            return _cut(_later(self.source))
        if blocking:
            raise TypeError("a body that comes asynchronously needs `async with fetch(...)`")
        return _cut(self.source)


_NOTHING = Body()


def encode(body):
    """The body that user code gives: bytes, a file, pieces, or a JSON value."""
    if body is None:
        return _NOTHING
    if isinstance(body, _BYTES):
        return Body(whole=bytes(body))
    if hasattr(body, "read"):
        return Body(source=_read(body, "the body"), length=_length(body))
    if hasattr(body, "__aiter__") or hasattr(body, "__next__"):
        return Body(source=body)
    try:
        text = json.dumps(body, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"the body cannot be sent as JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"the body cannot be sent as JSON: {error}") from None
    return Body(whole=text.encode(), content_type="application/json")


def encode_form(files):
    """A multipart form, by RFC 7578. Files are read when it is sent."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, value in files.items():
        filename, content, content_type = _form_file(name, value)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"; '
            f'filename="{_quoted(filename)}"\r\nContent-Type: {content_type}\r\n\r\n'
        )
        parts += (head.encode(), content, b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    form = f"multipart/form-data; boundary={boundary}"
    if all(isinstance(part, bytes) for part in parts):
        return Body(whole=b"".join(parts), content_type=form)
    lengths = [len(part) if isinstance(part, bytes) else _length(part) for part in parts]
    length = None if None in lengths else sum(lengths)
    return Body(source=_joined(parts), length=length, content_type=form)


def _form_file(name, value):
    content_type = None
    filename = name
    if isinstance(value, tuple):
        if len(value) != 3:
            raise TypeError(f"the file {name!r} is not (filename, fileobj, content_type)")
        filename, value, content_type = value
    elif hasattr(value, "read"):
        filename = os.path.basename(str(getattr(value, "name", name)))
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, _BYTES):
        value = bytes(value)
    elif not hasattr(value, "read"):
        raise TypeError(f"the file {name!r} is not bytes, a file object or a tuple")
    content_type = content_type or "application/octet-stream"
    if any(c in content_type for c in "\r\n"):
        raise ValueError(f"the content type of {name!r} has a line break")
    return filename, value, content_type


def _quoted(text):
    """A name inside quotes, as the HTML standard encodes multipart forms."""
    return str(text).replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _length(file):
    """How many bytes a file still has, if it can tell."""
    if isinstance(file, io.TextIOBase):
        return None
    try:
        here = file.tell()
        end = file.seek(0, io.SEEK_END)
        file.seek(here)
    except (AttributeError, OSError):
        return None
    return max(end - here, 0)


def _read(file, what):
    while data := file.read(_PIECE):
        if isinstance(data, str):
            data = data.encode()
        if not isinstance(data, _BYTES):
            raise TypeError(f"{what} reads {type(data).__name__}, not bytes")
        yield data


def _joined(parts):
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            yield from _read(part, "a file of the form")


async def _later(pieces):
    for piece in pieces:
        yield piece


async def _cut(pieces):
    """The pieces in a size that the host takes; empty ones are left out."""
    async for piece in pieces:
        if not isinstance(piece, _BYTES):
            raise TypeError(f"the pieces of a body are bytes, not {type(piece).__name__}")
        piece = memoryview(piece).cast("B")
        for start in range(0, len(piece), _PIECE):
            yield bytes(piece[start : start + _PIECE])
