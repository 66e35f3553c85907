"""The HTTP client of the guest. It reaches what the host lets it reach.

    with fetch("GET", url) as response:        # synchronous
        print(response.status, response.text())

    async with fetch("GET", url) as response:  # asynchronous
        print(response.status, await response.atext())
"""

import json as _json
from urllib.parse import urlencode as _urlencode
from urllib.parse import urlsplit as _urlsplit
from urllib.parse import urlunsplit as _urlunsplit

from isola_guest.loop import main as _loop
from isola_guest.pending import Exchange as _Exchange
from isola_guest.pending import RequestError
from wit_world.imports import host as _host

__all__ = ["AsyncResponse", "Request", "RequestError", "Response", "fetch"]


def fetch(method, url, *, params=None, headers=None, body=None, timeout=None, proxy=None):
    """Describes a request; entering it, with `with` or `async with`, sends it.

    `params` are added to the query. `body` is bytes, or an object that is sent
    as JSON. `timeout` is the seconds until the first byte of the response.
    `proxy` is passed to the host in the header `x-isola-proxy`.
    """
    return Request(method, url, params, headers, body, timeout, proxy)


class Request:
    """A request that is not sent yet."""

    def __init__(self, method, url, params, headers, body, timeout, proxy):
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout must be positive, not {timeout!r}")
        self.method = method.upper()
        self.url = _with_params(str(url), params)
        self._headers = [(name, str(value)) for name, value in (headers or {}).items()]
        if proxy is not None:
            self._headers.append(("x-isola-proxy", str(proxy)))
        self._body = self._encode(body)
        self._timeout = timeout
        self._response = None

    def __enter__(self):
        self._response = Response(*_loop.run_until_complete(self._send()))
        return self._response

    def __exit__(self, *_):
        self._response.close()

    async def __aenter__(self):
        self._response = AsyncResponse(*await self._send())
        return self._response

    async def __aexit__(self, *_):
        self._response.close()

    async def _send(self):
        timeout = None if self._timeout is None else int(self._timeout * 1e9)
        request = _host.Request(self.method, self.url, self._headers, self._body, timeout)
        exchange = _Exchange(request)
        head = await exchange.head()
        return head.status, head.headers, exchange

    def _encode(self, body):
        if body is None or isinstance(body, (bytes, bytearray, memoryview)):
            return None if body is None else bytes(body)
        if not any(name.lower() == "content-type" for name, _ in self._headers):
            self._headers.append(("content-type", "application/json"))
        return _json.dumps(body, allow_nan=False).encode()


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

    def _decode(self, data):
        content_type = self.headers.get("content-type", "")
        _, _, charset = content_type.lower().partition("charset=")
        charset = charset.split(";")[0].strip().strip("\"'") or "utf-8"
        try:
            return data.decode(charset, "replace")
        except LookupError:
            return data.decode("utf-8", "replace")


class Response(_Received):
    """A response for synchronous code."""

    def read(self, size=-1):
        """Reads `size` bytes, or all; fewer only at the end."""
        return _loop.run_until_complete(self._read(size))

    def text(self):
        """The rest of the body as text."""
        return self._decode(self.read())

    def json(self):
        """The rest of the body as a JSON value."""
        return _json.loads(self.read())

    def iter_bytes(self):
        """The body as it comes."""
        while data := _loop.run_until_complete(self._next()):
            yield data


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


def _with_params(url, params):
    if not params:
        return url
    parts = _urlsplit(url)
    query = "&".join(filter(None, (parts.query, _urlencode(params, doseq=True))))
    return _urlunsplit(parts._replace(query=query, fragment=""))
