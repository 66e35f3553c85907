"""The HTTP client of the guest. The host decides which servers it can reach.

with fetch("GET", url) as response:        # synchronous
    print(response.status, response.text())

async with fetch("GET", url) as response:  # asynchronous
    print(response.status, await response.atext())
"""

import codecs as _codecs
import json as _json
from urllib.parse import urlencode as _urlencode
from urllib.parse import urlsplit as _urlsplit
from urllib.parse import urlunsplit as _urlunsplit

from isola_guest.http import body as _body
from isola_guest.http import encodings as _encodings
from isola_guest.http.headers import Headers
from isola_guest.http.headers import outgoing as _outgoing
from isola_guest.http.lines import Events as _Events
from isola_guest.http.lines import Lines as _Lines
from isola_guest.http.lines import ServerSentEvent
from isola_guest.pending import Exchange as _Exchange
from isola_guest.pending import RequestError
from isola_guest.pending import run_blocking as _run
from wit_world.imports import host as _host

__all__ = [
    "AsyncResponse",
    "Headers",
    "Request",
    "RequestError",
    "Response",
    "ServerSentEvent",
    "fetch",
]


def fetch(
    method, url, *, params=None, headers=None, files=None, body=None, timeout=None, proxy=None
):
    """Creates a request, which is sent when it is entered by `with` or `async with`.

    `params` are added to the query; a value may be a list. `headers` is a
    mapping, whose values may be lists, or pairs. `body` is bytes, a file
    object, an iterator of bytes (with `async with` also an asynchronous one),
    or an object that is sent as JSON. `files` are the fields of a multipart
    form: each value is bytes, a file object, or `(filename, fileobj,
    content_type)`. Files and iterators are streamed. `timeout` is the seconds
    until the first byte of the response. `proxy` is passed to the host in the
    header `x-isola-proxy`.
    """
    return Request(method, url, params, headers, files, body, timeout, proxy)


class Request:
    """A request that has not been sent yet. It can be sent once."""

    def __init__(self, method, url, params, headers, files, body, timeout, proxy):
        if not isinstance(method, str):
            raise TypeError(f"the method must be a str, not {type(method).__name__}")
        if files is not None and body is not None:
            raise ValueError("a request has either files or a body")
        self.method = method.upper()
        self.url = _with_params(str(url), params)
        self._headers = _outgoing(headers)
        if proxy is not None:
            self._headers.append(("x-isola-proxy", str(proxy)))
        self._body = _body.encode(body) if files is None else _body.encode_form(files)
        self._timeout = _nanoseconds(timeout)
        self._sent = False
        self._response = None
        if self._body.content_type is not None:
            self._set_content_type(self._body.content_type, replace=files is not None)

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

    def __getattr__(self, name):
        if not name.startswith("_") and (hasattr(Response, name) or name in ("status", "headers")):
            name = f"{name}: send it with `with fetch(...) as response`"
        raise AttributeError(f"the request has no attribute {name}")

    async def _send(self, blocking):
        if self._sent:
            raise RuntimeError("a request is sent once; call fetch again")
        chunks = self._body.chunks(blocking)
        self._sent = True
        body = self._body.declared(_declared_length(self._headers))
        request = _host.Request(self.method, self.url, self._headers, body, self._timeout)
        exchange = _Exchange(request, chunks, blocking)
        head = await exchange.head()
        return head, exchange

    def _set_content_type(self, content_type, replace):
        if replace:
            # The content type contains the boundary.
            self._headers = [pair for pair in self._headers if pair[0].lower() != "content-type"]
        if not any(name.lower() == "content-type" for name, _ in self._headers):
            self._headers.append(("content-type", content_type))


class _Received:
    """The common base of both kinds of response."""

    def __init__(self, head, exchange):
        self.status = head.status
        self._fields = head.headers
        self._headers = None
        self._exchange = exchange
        # The bytes that were received and not read yet.
        self._rest = head.body
        if (steps := _encodings.steps(head.headers, RequestError)) is not None:
            self._exchange = _encodings.DecodedExchange(exchange, head.body, steps)
            self._rest = b""

    @property
    def headers(self):
        """The header fields, which are parsed on first use."""
        if self._headers is None:
            self._headers = Headers(self._fields)
        return self._headers

    def close(self):
        """Closes the connection, as does the end of the `with` block."""
        self._rest = b""
        self._exchange.close()

    async def _read(self, size):
        if size < 0 and self._exchange.is_over:
            data, self._rest = self._rest, b""
            return data
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
        # The format is always UTF-8, regardless of the content type, and only an empty
        # line ends an event.
        lines = _Lines("utf-8-sig")
        events = _Events()
        while data := await self._next():
            for line in lines.feed(data):
                if (event := events.feed(line)) is not None:
                    yield event


class Response(_Received):
    """A response for synchronous code."""

    def read(self, size=-1):
        """Reads `size` bytes, or all by default; returns fewer only at the end."""
        return _run(self._read(size))

    def text(self):
        """Returns the rest of the body as text."""
        return self._decode(self.read())

    def json(self):
        """Returns the rest of the body as a JSON value."""
        return _json.loads(self.read())

    def iter_bytes(self):
        """Yields the body as it is received."""
        while data := _run(self._next()):
            yield data

    def iter_lines(self):
        """Yields the body's lines, without line ends, as they are received."""
        return _drive(self._lines())

    def iter_sse(self):
        """Yields the events of an event stream as they are received."""
        return _drive(self._events())


class AsyncResponse(_Received):
    """A response for asynchronous code."""

    async def aread(self, size=-1):
        """Reads `size` bytes, or all by default; returns fewer only at the end."""
        return await self._read(size)

    async def atext(self):
        """Returns the rest of the body as text."""
        return self._decode(await self.aread())

    async def ajson(self):
        """Returns the rest of the body as a JSON value."""
        return _json.loads(await self.aread())

    async def aiter_bytes(self):
        """Yields the body as it is received."""
        while data := await self._next():
            yield data

    def aiter_lines(self):
        """Yields the body's lines, without line ends, as they are received."""
        return self._lines()

    def aiter_sse(self):
        """Yields the events of an event stream as they are received."""
        return self._events()


def _drive(items):
    """Iterates over an asynchronous generator synchronously."""
    try:
        while True:
            try:
                item = _run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        _run(items.aclose())


def _declared_length(headers):
    """Returns the length of the body that user code declares in the header fields."""
    if not headers:
        return None
    declared = {value.strip() for name, value in headers if name.lower() == "content-length"}
    if not declared:
        return None
    length = declared.pop()
    if declared or not (length.isascii() and length.isdigit()) or int(length) >= 2**63:
        raise ValueError("content-length must be one number of bytes below 2**63")
    return int(length)


def _nanoseconds(timeout):
    if timeout is None or timeout == float("inf"):
        return None
    # NaN is not positive either.
    if not timeout > 0:
        raise ValueError(f"timeout must be positive, not {timeout!r}")
    return min(int(timeout * 1e9), 2**63)


def _with_params(url, params):
    if not params:
        return url
    parts = _urlsplit(url)
    query = "&".join(filter(None, (parts.query, _urlencode(params, doseq=True))))
    return _urlunsplit(parts._replace(query=query, fragment=""))
