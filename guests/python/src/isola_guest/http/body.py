"""Request bodies: their sources, encoding and streaming."""

import io
import json
import os
import secrets

from wit_world.imports import host

# The maximum size of a chunk of a body, in bytes.
_MAX_CHUNK_BYTES = 256 * 1024

_BYTES = (bytes, bytearray, memoryview)

_NONE = host.RequestBody_None_()


class Body:
    """The body of a request, complete or streamed."""

    def __init__(self, content=None, source=None, length=None, content_type=None):
        self.source = source
        self.length = length
        self.content_type = content_type
        self._content = content

    def declared(self, length=None):
        """Returns the body for the host. `length` is the one that user code declared."""
        if self.source is not None:
            return host.RequestBody_Pieces(self.length if length is None else length)
        return _NONE if self._content is None else host.RequestBody_Whole(self._content)

    def chunks(self, blocking):
        """Returns the chunks of a streamed body, or None."""
        if self.source is None:
            return None
        if not hasattr(self.source, "__aiter__"):
            return _split(_asynchronous(self.source))
        if blocking:
            raise TypeError("an asynchronous body requires `async with fetch(...)`")
        return _split(self.source)


_NO_BODY = Body()


def encode(body):
    """Creates the body from bytes, a file, an iterator of chunks, or a JSON value."""
    if body is None:
        return _NO_BODY
    if isinstance(body, _BYTES):
        return Body(content=bytes(body))
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
    return Body(content=text.encode(), content_type="application/json")


def encode_form(files):
    """Creates a multipart form (RFC 7578). Files are read when it is sent."""
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
        return Body(content=b"".join(parts), content_type=form)
    lengths = [len(part) if isinstance(part, bytes) else _length(part) for part in parts]
    length = None if None in lengths else sum(lengths)
    return Body(source=_joined(parts), length=length, content_type=form)


def _form_file(name, value):
    content_type = None
    filename = name
    if isinstance(value, tuple):
        if len(value) != 3:
            raise TypeError(f"the file {name!r} must be (filename, fileobj, content_type)")
        filename, value, content_type = value
    elif hasattr(value, "read"):
        filename = os.path.basename(str(getattr(value, "name", name)))
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, _BYTES):
        value = bytes(value)
    elif not hasattr(value, "read"):
        raise TypeError(f"the file {name!r} must be bytes, a file object or a tuple")
    content_type = content_type or "application/octet-stream"
    if any(c in content_type for c in "\r\n"):
        raise ValueError(f"the content type of {name!r} contains a line break")
    return filename, value, content_type


def _quoted(text):
    """Escapes a name within quotes, as the HTML standard does in multipart forms."""
    return str(text).replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _length(file):
    """Returns the number of remaining bytes of a file, or None if it is unknown."""
    if isinstance(file, io.TextIOBase):
        return None
    try:
        position = file.tell()
        end = file.seek(0, io.SEEK_END)
        file.seek(position)
    except (AttributeError, OSError):
        return None
    return max(end - position, 0)


def _read(file, what):
    while data := file.read(_MAX_CHUNK_BYTES):
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


async def _asynchronous(chunks):
    for chunk in chunks:
        yield chunk


async def _split(chunks):
    """Splits chunks into sizes that the host accepts; empty ones are omitted."""
    async for chunk in chunks:
        if not isinstance(chunk, _BYTES):
            raise TypeError(f"the chunks of a body must be bytes, not {type(chunk).__name__}")
        chunk = memoryview(chunk).cast("B")
        for start in range(0, len(chunk), _MAX_CHUNK_BYTES):
            yield bytes(chunk[start : start + _MAX_CHUNK_BYTES])
