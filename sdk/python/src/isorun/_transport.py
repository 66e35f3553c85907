"""Operations over httpx, plain and asynchronous."""

from __future__ import annotations

import functools
import ssl
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from ._config import Target
from ._errors import IsorunConnectionError, IsorunTimeoutError
from ._protocol import CONNECT_TIMEOUT, ExecStream, Operation
from ._types import ExecResult

T = TypeVar("T")


class Transport:
    """A connection to a server, for any number of threads."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = target.url
        self._open: httpx.Client | None = None

    @property
    def _client(self) -> httpx.Client:
        if self._open is None:
            self._open = httpx.Client(**_options(self._target))
        return self._open

    def send(self, operation: Operation[T], content: Iterable[bytes] | None = None) -> T:
        with _translated(self._url):
            response = self._client.request(
                operation.method,
                operation.target,
                json=operation.body,
                content=content,
                timeout=_timeout(operation.read_timeout),
            )
        return operation.answer(response.status_code, response.content)

    def stream(
        self, operation: Operation[ExecResult], listen: Callable[[str, str], None]
    ) -> ExecResult:
        events = ExecStream()
        with _translated(self._url), self._client.stream(
            operation.method,
            operation.path,
            json=operation.body,
            timeout=_timeout(operation.read_timeout),
        ) as response:
            if not response.is_success:
                return operation.answer(response.status_code, response.read())
            for piece in response.iter_bytes():
                for name, text in events.feed(piece):
                    listen(name, text)
        return events.result()

    def close(self) -> None:
        """Ends connections. The next operation opens new ones."""
        if self._open is not None:
            self._open.close()
            self._open = None

    # A sandbox that nobody destroyed, because it is to live on.
    __del__ = close


class AsyncTransport:
    """A connection to a server, for one event loop."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = target.url
        self._open: httpx.AsyncClient | None = None

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._open is None:
            self._open = httpx.AsyncClient(**_options(self._target))
        return self._open

    async def send(
        self, operation: Operation[T], content: AsyncIterable[bytes] | bytes | None = None
    ) -> T:
        with _translated(self._url):
            response = await self._client.request(
                operation.method,
                operation.target,
                json=operation.body,
                content=content,
                timeout=_timeout(operation.read_timeout),
            )
        return operation.answer(response.status_code, response.content)

    async def stream(
        self, operation: Operation[ExecResult], listen: Callable[[str, str], Awaitable[None]]
    ) -> ExecResult:
        events = ExecStream()
        with _translated(self._url):
            async with self._client.stream(
                operation.method,
                operation.path,
                json=operation.body,
                timeout=_timeout(operation.read_timeout),
            ) as response:
                if not response.is_success:
                    return operation.answer(response.status_code, await response.aread())
                async for piece in response.aiter_bytes():
                    for name, text in events.feed(piece):
                        await listen(name, text)
        return events.result()

    async def close(self) -> None:
        """Ends connections. The next operation opens new ones."""
        if self._open is not None:
            client, self._open = self._open, None
            await client.aclose()


CHUNK = 1 << 20


def file_pieces(path: str) -> Iterator[bytes]:
    """A file, in pieces."""
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            yield piece


async def async_file_pieces(path: str) -> AsyncIterator[bytes]:
    """A file, in pieces, read by another thread."""
    import asyncio

    file = await asyncio.to_thread(open, path, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, CHUNK):
            yield piece
    finally:
        file.close()


def _options(target: Target) -> dict[str, Any]:
    headers = {"user-agent": "isorun-python/0.1.0"}
    if target.key:
        headers["authorization"] = f"Bearer {target.key}"
    return {
        "base_url": target.url,
        "headers": headers,
        "verify": _certificates() if target.url.startswith("https:") else _no_certificates(),
        # A proxy of the environment has no business on the way to this machine.
        "trust_env": not target.is_local,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


# Reading the machine's certificates takes longer than creating a sandbox.
@functools.lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=1)
def _no_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _timeout(read: float | None) -> httpx.Timeout:
    return httpx.Timeout(read, connect=CONNECT_TIMEOUT, pool=CONNECT_TIMEOUT)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Says in our words what httpx says in its own."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise IsorunConnectionError(f"no isorun server answers at {url}: {error}") from error
    except httpx.TimeoutException as error:
        raise IsorunTimeoutError(
            f"the server at {url} did not answer in time ({type(error).__name__})"
        ) from error
    except httpx.ConnectError as error:
        raise IsorunConnectionError(
            f"no isorun server answers at {url}: {error}. Start one with `isorun serve`"
        ) from error
    except httpx.TransportError as error:
        raise IsorunConnectionError(f"the connection to {url} broke: {error}") from error
