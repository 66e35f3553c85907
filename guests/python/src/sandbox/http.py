"""The HTTP client of the guest. It reaches what the host lets it reach.

    with fetch("GET", url) as response:        # synchronous
        print(response.status, response.text())

    async with fetch("GET", url) as response:  # asynchronous
        print(response.status, await response.atext())
"""

import codecs as _codecs
import json as _json
import os as _os
import secrets as _secrets
from dataclasses import dataclass as _dataclass
from urllib.parse import urlencode as _urlencode
from urllib.parse import urlsplit as _urlsplit
from urllib.parse import urlunsplit as _urlunsplit

from isola_guest.pending import Exchange as _Exchange
from isola_guest.pending import RequestError
from isola_guest.pending import run_blocking as _run
from wit_world.imports import host as _host

__all__ = ["AsyncResponse", "Request", "RequestError", "Response", "ServerSentEvent", "fetch"]


def fetch(
    method, url, *, params=None, headers=None, files=None, body=None, timeout=None, proxy=None
):
    """Describes a request; entering it, with `with` or `async with`, sends it.

    `params` are added to the query. `body` is bytes, or an object that is sent
    as JSON. `files` are the fields of a multipart form: each value is bytes, a
    file object, or `(filename, fileobj, content_type)`. `timeout` is the
    seconds until the first byte of the response. `proxy` is passed to the host
    in the header `x-isola-proxy`.
    """
    return Request(method, url, params, headers, files, body, timeout, proxy)


@_dataclass(frozen=True)
class ServerSentEvent:
    """An event of an event stream."""

    data: str
    event: str = "message"
    id: str = ""


class Request:
    """A request that is not sent yet."""

    def __init__(self, method, url, params, headers, files, body, timeout, proxy):
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout must be positive, not {timeout!r}")
        self.method = method.upper()
        self.url = _with_params(str(url), params)
        self._headers = [(name, str(value)) for name, value in (headers or {}).items()]
        if proxy is not None:
            self._headers.append(("x-isola-proxy", str(proxy)))
        self._body = self._encode(body) if files is None else self._encode_form(files, body)
        self._timeout = timeout
        self._response = None

    def __enter__(self):
        self._response = Response(*_run(self._send(blocking=True)))
        return self._response

    def __exit__(self, *_):
        self._response.close()

    async def __aenter__(self):
        self._response = AsyncResponse(*await self._send(blocking=False))
        return self._response

    async def __aexit__(self, *_):
        self._response.close()

    async def _send(self, blocking):
        timeout = None if self._timeout is None else int(self._timeout * 1e9)
        request = _host.Request(self.method, self.url, self._headers, self._body, timeout)
        exchange = _Exchange(request, blocking)
        head = await exchange.head()
        return head.status, head.headers, exchange

    def _encode(self, body):
        if body is None or isinstance(body, (bytes, bytearray, memoryview)):
            return None if body is None else bytes(body)
        if not any(name.lower() == "content-type" for name, _ in self._headers):
            self._headers.append(("content-type", "application/json"))
        return _json.dumps(body, allow_nan=False).encode()


    def _encode_form(self, files, body):
        if body is not None:
            raise ValueError("a request has either files or a body")
        boundary = _secrets.token_hex(16)
        parts = []
        for name, value in files.items():
            filename, content, content_type = _form_file(name, value)
            parts += (
                f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"; '
                f'filename="{_quoted(filename)}"\r\nContent-Type: {content_type}\r\n\r\n'.encode(),
                content,
                b"\r\n",
            )
        parts.append(f"--{boundary}--\r\n".encode())
        self._headers = [pair for pair in self._headers if pair[0].lower() != "content-type"]
        self._headers.append(("content-type", f"multipart/form-data; boundary={boundary}"))
        return b"".join(parts)


class _Received:
    """What both kinds of response have."""

    def __init__(self, status, headers, exchange):
        self.status = status
        self.headers = {}
        for name, value in headers:
            known = self.headers.get(name)
            self.headers[name] = value if known is None else f"{known}, {value}"
        self._exchange = exchange
        self._rest = b""

    def close(self):
        """Closes the connection. Leaving the `with` block does it, too."""
        self._exchange.close()

    async def _read(self, size):
        parts = [self._rest]
        length = len(self._rest)
        while size < 0 or length < size:
            data = await self._exchange.next()
            if not data:
                break
            parts.append(data)
            length += len(data)
        data = b"".join(parts)
        end = len(data) if size < 0 else size
        self._rest = data[end:]
        return data[:end]

    async def _next(self):
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self._exchange.next()

    def _charset(self):
        content_type = self.headers.get("content-type", "")
        _, _, charset = content_type.lower().partition("charset=")
        charset = charset.split(";")[0].strip().strip("\"'") or "utf-8"
        try:
            return _codecs.lookup(charset).name
        except LookupError:
            return "utf-8"

    def _decode(self, data):
        return data.decode(self._charset(), "replace")

    async def _lines(self):
        lines = _Lines(self._charset())
        while data := await self._next():
            for line in lines.feed(data):
                yield line
        for line in lines.end():
            yield line

    async def _events(self):
        # The format is always UTF-8, whatever the type says, and what is not
        # ended by an empty line is no event.
        lines = _Lines("utf-8-sig")
        events = _Events()
        while data := await self._next():
            for line in lines.feed(data):
                if (event := events.feed(line)) is not None:
                    yield event


class Response(_Received):
    """A response for synchronous code."""

    def read(self, size=-1):
        """Reads `size` bytes, or all; fewer only at the end."""
        return _run(self._read(size))

    def text(self):
        """The rest of the body as text."""
        return self._decode(self.read())

    def json(self):
        """The rest of the body as a JSON value."""
        return _json.loads(self.read())

    def iter_bytes(self):
        """The body as it comes."""
        while data := _run(self._next()):
            yield data

    def iter_lines(self):
        """The body's lines, without their ends, as they come."""
        return _drive(self._lines())

    def iter_sse(self):
        """The events of an event stream, as they come."""
        return _drive(self._events())


class AsyncResponse(_Received):
    """A response for asynchronous code."""

    async def aread(self, size=-1):
        """Reads `size` bytes, or all; fewer only at the end."""
        return await self._read(size)

    async def atext(self):
        """The rest of the body as text."""
        return self._decode(await self.aread())

    async def ajson(self):
        """The rest of the body as a JSON value."""
        return _json.loads(await self.aread())

    async def aiter_bytes(self):
        """The body as it comes."""
        while data := await self._next():
            yield data

    def aiter_lines(self):
        """The body's lines, without their ends, as they come."""
        return self._lines()

    def aiter_sse(self):
        """The events of an event stream, as they come."""
        return self._events()


class _Lines:
    """Cuts a body into lines that end in CR, LF or CRLF."""

    def __init__(self, charset):
        self._decoder = _codecs.getincrementaldecoder(charset)("replace")
        self._rest = ""
        self._after_cr = False

    def feed(self, data):
        text = self._decoder.decode(data)
        # A CR ends its line at once; an LF that follows belongs to it.
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        text = self._rest + text
        self._after_cr = text.endswith("\r")
        *lines, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return lines

    def end(self):
        rest = self._rest + self._decoder.decode(b"", True)
        return [rest] if rest else []


class _Events:
    """Puts lines together to events, as the HTML standard says in its section
    on server-sent events."""

    def __init__(self):
        self._id = ""
        self._event = ""
        self._data = []

    def feed(self, line):
        if not line:
            data, event = self._data, self._event
            self._data, self._event = [], ""
            return ServerSentEvent("\n".join(data), event or "message", self._id) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None


def _drive(items):
    """An asynchronous generator, as a plain one."""
    try:
        while True:
            try:
                item = _run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        _run(items.aclose())


def _form_file(name, value):
    content_type = None
    filename = name
    if isinstance(value, tuple):
        filename, value, content_type = value
    elif hasattr(value, "read"):
        filename = _os.path.basename(str(getattr(value, "name", name)))
    content = value.read() if hasattr(value, "read") else value
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(f"the file {name!r} is not bytes, a file object or a tuple")
    content_type = content_type or "application/octet-stream"
    if any(c in content_type for c in "\r\n"):
        raise ValueError(f"the content type of {name!r} has a line break")
    return filename, bytes(content), content_type


def _quoted(text):
    """A name inside quotes, as the HTML standard encodes multipart forms."""
    return str(text).replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _with_params(url, params):
    if not params:
        return url
    parts = _urlsplit(url)
    query = "&".join(filter(None, (parts.query, _urlencode(params, doseq=True))))
    return _urlunsplit(parts._replace(query=query, fragment=""))
