"""HTTP requests of a guest, and the responses of the host."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, cast

from ._bridge import call, callback, close
from ._errors import InvalidArgumentError, StreamClosedError

if TYPE_CHECKING:
    from . import _native


class Headers(Mapping[str, str]):
    """Ordered header fields with case-insensitive names.

    As a mapping, a repeated field has one value, joined with `, `; `get_all` and
    `multi_items` return the single values.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs: Iterable[tuple[str, str]]
        if isinstance(fields, Headers):
            pairs = fields.multi_items()
        elif isinstance(fields, Mapping):
            pairs = cast("Mapping[str, str]", fields).items()
        else:
            pairs = fields
        self._fields: list[tuple[str, str]] = []
        for name, value in pairs:
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidArgumentError(
                    f"header field {name!r}: names and values must be strings"
                )
            self._fields.append((name, value))

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self._fields))

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._fields})

    def get_all(self, name: str) -> list[str]:
        """Returns all values of a field."""
        wanted = name.lower()
        return [value for name, value in self._fields if name.lower() == wanted]

    def multi_items(self) -> list[tuple[str, str]]:
        """Returns the fields one by one, as pairs of name and value."""
        return list(self._fields)

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"


@dataclass(frozen=True)
class HttpRequest:
    """A request of a guest. Its URL is absolute.

    `body` is `None`, `bytes` if the guest sent a complete body, or an asynchronous
    iterable of chunks that arrive while the guest produces them. If the guest aborts
    the body, the iterable raises `StreamClosedError`; it never ends silently.
    """

    method: str
    url: str
    headers: Headers
    body: bytes | AsyncIterable[bytes] | None

    async def read(self) -> bytes:
        """Returns the complete body."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return b"".join([chunk async for chunk in self.body])


@dataclass(frozen=True)
class HttpResponse:
    """A response of the host.

    `headers` is a mapping, `Headers`, or a list of pairs, which may repeat a
    name. The guest receives each chunk of an iterable `body` as it is produced.
    """

    status: int
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] | None = None


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]


class RequestBody:
    """The body of a request, as an iterable that can be read once."""

    def __init__(self, reader: _native.BodyReader) -> None:
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            chunk = await self._next()
            if chunk is None:
                return
            yield chunk

    async def _next(self) -> bytes | None:
        chunk: bytes | None = await call(self._reader.next)
        return chunk


async def answer(
    handler: HttpHandler,
    method: str,
    url: str,
    headers: list[tuple[str, str]],
    reader: _native.BodyReader | None,
    length: int | None,
    reply: _native.HttpReply,
) -> None:
    """Calls a handler with a request, and sends its response."""
    body: bytes | AsyncIterable[bytes] | None = None
    if reader is not None:
        body = RequestBody(reader)
        if length is not None:
            # The complete body is available.
            body = b"".join([chunk async for chunk in body])
    response = await handler(HttpRequest(method, url, Headers(headers), body))
    if not isinstance(response, HttpResponse):
        raise InvalidArgumentError(
            f"the http handler returned a {type(response).__name__}: use HttpResponse"
        )
    fields = Headers(response.headers).multi_items()
    if response.body is None or isinstance(response.body, (bytes, bytearray, memoryview)):
        content = None if response.body is None else bytes(response.body)
        reply.respond(response.status, fields, content)
        return
    if not isinstance(response.body, AsyncIterable):
        raise InvalidArgumentError(
            f"the body of an HttpResponse is a {type(response.body).__name__}: use bytes, "
            "an asynchronous iterable of bytes, or None"
        )
    await _send(reply.respond_stream(response.status, fields), response.body)


async def _send(writer: _native.BodyWriter, chunks: AsyncIterable[bytes]) -> None:
    """Sends a body in chunks; stops when the guest no longer reads it."""
    loop = asyncio.get_running_loop()
    iterator = aiter(chunks)
    try:
        async for chunk in iterator:
            sent = loop.create_future()
            writer.send(bytes(chunk), loop, callback(sent))
            if not await sent:
                return
    except asyncio.CancelledError:
        raise
    except Exception as error:
        failed = loop.create_future()
        writer.fail(describe(error), loop, callback(failed))
        await failed
        return
    finally:
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:
            await close(aclose())
    ended = loop.create_future()
    writer.end(loop, callback(ended))
    await ended


def describe(error: BaseException) -> str:
    """Returns the text of a host's exception for the guest: only its message."""
    return str(error) or type(error).__name__


class HttpxBridge:
    """The handler for `http=True`, which sends requests with `httpx`.

    Redirects are not followed, so that the guest receives them; proxy settings of
    the environment are not used, and no cookies are stored. There is one client
    for each event loop, because its connections belong to that loop.
    """

    def __init__(self) -> None:
        try:
            import httpx
        except ImportError:
            raise InvalidArgumentError(
                "http=True needs the package httpx: pip install isola[http]"
            ) from None
        self._httpx = httpx
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        httpx = self._httpx
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                timeout=httpx.Timeout(None, connect=30.0),
                limits=httpx.Limits(max_connections=None),
            )
            self._loop = loop
        fields = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers.multi_items()
            # These fields are for the host, not for the server.
            if name.lower() not in ("x-isola-proxy", "host")
        ]
        self._client.cookies.clear()
        outgoing = self._client.build_request(
            request.method, request.url, headers=fields, content=request.body
        )
        for name in ("user-agent", "accept", "accept-encoding"):
            # Remove the fields that httpx adds and the guest did not send.
            if name not in request.headers:
                outgoing.headers.pop(name, None)
        try:
            response = await self._client.send(outgoing, stream=True)
        except httpx.HTTPError as error:
            raise _guest_error(httpx, error, outgoing) from None
        return HttpResponse(
            response.status_code,
            [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in response.headers.raw
            ],
            self._chunks(response, outgoing),
        )

    async def _chunks(self, response: Any, request: Any) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except self._httpx.HTTPError as error:
            raise _guest_error(self._httpx, error, request) from None
        finally:
            await close(response.aclose())

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()


def _guest_error(httpx: Any, error: Exception, request: Any) -> Exception:
    """Returns the error for the guest: the cause, but no resolved IP address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StreamClosedError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        what = "timed out"
    elif isinstance(error, httpx.ConnectError):
        what = "failed: cannot connect"
    elif isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)):
        what = "failed: the body is incomplete"
    else:
        what = "failed"
    authority = request.url.netloc.decode("ascii")
    return ConnectionError(f"the request to {authority} {what}")
