"""HTTP requests of a guest, and the answers of its host."""

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
    """Header fields, in order. Names are compared without regard to case.

    As a mapping a repeated field is one value, joined with `, `; `get_all` and
    `multi_items` keep its values apart.
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
                    f"header field {name!r}: names and values are strings"
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
        """Every value of a field."""
        wanted = name.lower()
        return [value for name, value in self._fields if name.lower() == wanted]

    def multi_items(self) -> list[tuple[str, str]]:
        """Every field by itself, as name and value."""
        return list(self._fields)

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"


@dataclass(frozen=True)
class HttpRequest:
    """A request that a guest makes. Its URL is absolute.

    `body` is `None`, `bytes` if the guest had it whole, or an asynchronous
    iterable of pieces that come while the guest still makes them. A body that
    the guest breaks off raises `StreamClosedError`; it never just ends.
    """

    method: str
    url: str
    headers: Headers
    body: bytes | AsyncIterable[bytes] | None

    async def read(self) -> bytes:
        """All of the body."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return b"".join([piece async for piece in self.body])


@dataclass(frozen=True)
class HttpResponse:
    """What the host answers.

    `headers` is a mapping, `Headers`, or a list of pairs, which may repeat a
    name. The guest sees each piece of an iterable `body` when it comes.
    """

    status: int
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] | None = None


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]


class RequestBody:
    """The pieces of a request's body, once."""

    def __init__(self, reader: _native.BodyReader) -> None:
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            piece = await self._next()
            if piece is None:
                return
            yield piece

    async def _next(self) -> bytes | None:
        piece: bytes | None = await call(self._reader.next)
        return piece


async def answer(
    handler: HttpHandler,
    method: str,
    url: str,
    headers: list[tuple[str, str]],
    reader: _native.BodyReader | None,
    length: int | None,
    reply: _native.HttpReply,
) -> None:
    """Lets a handler answer a request, and sends the body that it gives."""
    body: bytes | AsyncIterable[bytes] | None = None
    if reader is not None:
        body = RequestBody(reader)
        if length is not None:
            # It is there as a whole.
            body = b"".join([piece async for piece in body])
    response = await handler(HttpRequest(method, url, Headers(headers), body))
    if not isinstance(response, HttpResponse):
        raise InvalidArgumentError(
            f"the http handler returned a {type(response).__name__}: use HttpResponse"
        )
    fields = Headers(response.headers).multi_items()
    if response.body is None or isinstance(response.body, (bytes, bytearray, memoryview)):
        whole = None if response.body is None else bytes(response.body)
        reply.respond(response.status, fields, whole)
        return
    if not isinstance(response.body, AsyncIterable):
        raise InvalidArgumentError(
            f"the body of an HttpResponse is a {type(response.body).__name__}: use bytes, "
            "an asynchronous iterable of bytes, or None"
        )
    await _send(reply.respond_stream(response.status, fields), response.body)


async def _send(writer: _native.BodyWriter, pieces: AsyncIterable[bytes]) -> None:
    """Sends a body piece by piece; stops when nobody wants more."""
    loop = asyncio.get_running_loop()
    iterator = aiter(pieces)
    try:
        async for piece in iterator:
            sent = loop.create_future()
            writer.send(bytes(piece), loop, callback(sent))
            if not await sent:
                return
    except asyncio.CancelledError:
        raise
    except Exception as error:
        broken = loop.create_future()
        writer.fail(describe(error), loop, callback(broken))
        await broken
        return
    finally:
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:
            await close(aclose())
    ended = loop.create_future()
    writer.end(loop, callback(ended))
    await ended


def describe(error: BaseException) -> str:
    """What the guest is told of an exception of its host: the message, no more."""
    return str(error) or type(error).__name__


class HttpxBridge:
    """`http=True`: sends requests with `httpx`.

    Redirects are not followed, so that the guest sees them; proxies of the
    environment are not used, and no cookies are kept. There is one client for
    each event loop, because its connections belong to that loop.
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
            # A wish for the host, not for the server.
            if name.lower() not in ("x-isola-proxy", "host")
        ]
        self._client.cookies.clear()
        outgoing = self._client.build_request(
            request.method, request.url, headers=fields, content=request.body
        )
        for name in ("user-agent", "accept", "accept-encoding"):
            # Those that httpx adds by itself are not the guest's.
            if name not in request.headers:
                outgoing.headers.pop(name, None)
        try:
            response = await self._client.send(outgoing, stream=True)
        except httpx.HTTPError as error:
            raise _told(httpx, error, outgoing) from None
        return HttpResponse(
            response.status_code,
            [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in response.headers.raw
            ],
            self._pieces(response, outgoing),
        )

    async def _pieces(self, response: Any, request: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_raw():
                yield piece
        except self._httpx.HTTPError as error:
            raise _told(self._httpx, error, request) from None
        finally:
            await close(response.aclose())

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()


def _told(httpx: Any, error: Exception, request: Any) -> Exception:
    """What the guest is told: the cause, but no address that a name stands for."""
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
    place = request.url.netloc.decode("ascii")
    return ConnectionError(f"the request to {place} {what}")
