"""Connections for the pools of `httpcore`, which `httpx` uses.

A pool keeps its limits and its queue; only the connections that it creates are others,
unless it has a proxy, a socket of Unix or a network of its own (as in tests).
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

from wit_world.imports import host as _host

from isola_guest.http import wire
from isola_guest.pending import PushedExchange, RequestError, run_blocking

# The maximum size in bytes of a body that is sent at once, and of a piece of a longer one.
_MAX_PIECE_BYTES = 256 * 1024


def change_sync(module):
    """Changes `httpcore._sync.connection_pool`."""
    real = module.HTTPConnection

    def connection(*args, network_backend=None, uds=None, **kwargs):
        if uds is None and isinstance(network_backend, module.SyncBackend):
            return _SyncConnection(kwargs["origin"])
        return real(*args, network_backend=network_backend, uds=uds, **kwargs)

    module.HTTPConnection = connection


def change_async(module):
    """Changes `httpcore._async.connection_pool`."""
    real = module.AsyncHTTPConnection

    def connection(*args, network_backend=None, uds=None, **kwargs):
        if uds is None and isinstance(network_backend, module.AutoBackend):
            return _AsyncConnection(kwargs["origin"])
        return real(*args, network_backend=network_backend, uds=uds, **kwargs)

    module.AsyncHTTPConnection = connection


class _Connection:
    """A connection for one request. The host keeps the real ones."""

    _blocking = False

    def __init__(self, origin):
        self._origin = origin
        self._exchange = None
        self._is_closed = False

    def can_handle_request(self, origin):
        return origin == self._origin

    def is_available(self):
        return False

    def has_expired(self):
        return False

    def is_idle(self):
        return False

    def is_closed(self):
        return self._is_closed

    def info(self):
        state = "CLOSED" if self._is_closed else "ACTIVE"
        return f"'{self._origin}', HTTP by the host, {state}"

    def __repr__(self):
        return f"<{type(self).__name__} [{self.info()}]>"

    def _close(self):
        self._is_closed = True
        if self._exchange is not None:
            self._exchange.close()

    async def _respond(self, request, pieces):
        """Sends a request and returns the response, whose body is read later."""
        import httpcore

        if self._is_closed or self._exchange is not None:
            raise httpcore.ConnectionNotAvailable
        try:
            return await self._exchanged(httpcore, request, pieces)
        except BaseException:
            self._close()
            raise

    async def _exchanged(self, httpcore, request, pieces):
        timeouts = request.extensions.get("timeout", {})
        try:
            head, url, fields = _head(request)
        except ValueError as error:
            raise httpcore.LocalProtocolError(str(error)) from None
        await self._send(httpcore, request, head, url, fields, pieces, timeouts.get("write"))
        exchange = self._exchange
        exchange.timeout = timeouts.get("read")
        try:
            response = await exchange.head()
        except TimeoutError:
            raise httpcore.ReadTimeout("timed out") from None
        except RequestError as error:
            raise httpcore.ConnectError(str(error)) from None
        has_body = head.method != "HEAD" and response.status not in (204, 304)
        return httpcore.Response(
            status=response.status,
            headers=[
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in response.headers
                if not wire.is_of_connection(name)
            ],
            content=self._body(httpcore, response.body if has_body else b""),
            extensions={
                # The host does not pass them on.
                "http_version": b"HTTP/1.1",
                "reason_phrase": wire.reason_of(response.status).encode(),
            },
        )

    async def _send(self, httpcore, request, head, url, fields, pieces, timeout):
        def start(body):
            try:
                described = _host.Request(head.method, url, fields, body, None)
                self._exchange = PushedExchange(described, self._blocking)
            except RequestError as error:
                raise httpcore.ConnectError(str(error)) from None
            self._exchange.timeout = timeout

        if head.length is None and not head.is_chunked:
            start(_host.RequestBody_None_())
            return
        if head.is_chunked or head.length > _MAX_PIECE_BYTES:
            start(_host.RequestBody_Pieces(head.length))
            await self._send_pieces(httpcore, pieces)
            return
        parts = [bytes(piece) async for piece in pieces]
        content = b"".join(parts)
        if len(content) != head.length:
            what = "little" if len(content) < head.length else "much"
            raise httpcore.LocalProtocolError(f"Too {what} data for declared Content-Length")
        start(_host.RequestBody_Whole(content))

    async def _send_pieces(self, httpcore, pieces):
        exchange = self._exchange
        async for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:
                part, view = bytes(view[:_MAX_PIECE_BYTES]), view[_MAX_PIECE_BYTES:]
                try:
                    if not await exchange.send(part):
                        # The response says why.
                        return
                except TimeoutError:
                    raise httpcore.WriteTimeout("timed out") from None
                except RequestError as error:
                    raise httpcore.WriteError(str(error)) from None
        exchange.finish()

    async def _next(self, httpcore):
        try:
            return await self._exchange.next()
        except TimeoutError:
            raise httpcore.ReadTimeout("timed out") from None
        except RequestError as error:
            raise httpcore.ReadError(str(error)) from None


class _SyncConnection(_Connection):
    _blocking = True

    def handle_request(self, request):
        return run_blocking(self._respond(request, _asynchronous(request.stream)))

    def close(self):
        self._close()

    def _body(self, httpcore, first):
        return _Body(self, httpcore, first)


class _AsyncConnection(_Connection):
    async def handle_async_request(self, request):
        return await self._respond(request, request.stream)

    async def aclose(self):
        self._close()

    def _body(self, httpcore, first):
        return _AsyncBody(self, httpcore, first)


class _Body:
    """The body of a response."""

    def __init__(self, connection, httpcore, first):
        self._connection = connection
        self._httpcore = httpcore
        self._first = first

    def __iter__(self):
        try:
            if self._first:
                yield self._first
            while data := run_blocking(self._connection._next(self._httpcore)):
                yield data
        except BaseException:
            self.close()
            raise

    def close(self):
        self._connection._close()


class _AsyncBody:
    """The body of a response, for asynchronous code."""

    def __init__(self, connection, httpcore, first):
        self._connection = connection
        self._httpcore = httpcore
        self._first = first

    async def __aiter__(self):
        try:
            if self._first:
                yield self._first
            while data := await self._connection._next(self._httpcore):
                yield data
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self):
        self._connection._close()


async def _asynchronous(pieces):
    for piece in pieces:
        yield piece


def _head(request):
    """Returns the head of a request, its URL, and the fields that the host sends."""
    url = request.url
    scheme, host = url.scheme.decode("ascii"), url.host.decode("ascii")
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
    head = wire.RequestHead(request.method.decode("ascii"), url.target.decode("ascii"), fields)
    port = wire.default_port(scheme) if url.port is None else url.port
    return head, *wire.url_and_fields(head, scheme, host.strip("[]"), port)
