"""Sends operations with httpx, synchronously and asynchronously."""

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
    """A client of a server, which any number of threads can use."""

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
        with _map_errors(self._url):
            response = self._client.request(
                operation.method,
                operation.target,
                json=operation.body,
                content=content,
                timeout=_timeout(operation.read_timeout),
            )
        return operation.parse_response(response.status_code, response.content)

    def stream(
        self, operation: Operation[ExecResult], listen: Callable[[str, str], None]
    ) -> ExecResult:
        events = ExecStream()
        with _map_errors(self._url), self._client.stream(
            operation.method,
            operation.path,
            json=operation.body,
            timeout=_timeout(operation.read_timeout),
        ) as response:
            if not response.is_success:
                return operation.parse_response(response.status_code, response.read())
            for chunk in response.iter_bytes():
                for name, text in events.feed(chunk):
                    listen(name, text)
        return events.result()

    def close(self) -> None:
        """Closes the connections. The next operation opens new ones."""
        if self._open is not None:
            self._open.close()
            self._open = None

    # Closes the connections of a sandbox that is kept running instead of destroyed.
    __del__ = close


class AsyncTransport:
    """A client of a server, for one event loop."""

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
        with _map_errors(self._url):
            response = await self._client.request(
                operation.method,
                operation.target,
                json=operation.body,
                content=content,
                timeout=_timeout(operation.read_timeout),
            )
        return operation.parse_response(response.status_code, response.content)

    async def stream(
        self, operation: Operation[ExecResult], listen: Callable[[str, str], Awaitable[None]]
    ) -> ExecResult:
        events = ExecStream()
        with _map_errors(self._url):
            async with self._client.stream(
                operation.method,
                operation.path,
                json=operation.body,
                timeout=_timeout(operation.read_timeout),
            ) as response:
                if not response.is_success:
                    return operation.parse_response(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    for name, text in events.feed(chunk):
                        await listen(name, text)
        return events.result()

    async def close(self) -> None:
        """Closes the connections. The next operation opens new ones."""
        if self._open is not None:
            client, self._open = self._open, None
            await client.aclose()


CHUNK_BYTES = 1 << 20


def file_chunks(path: str) -> Iterator[bytes]:
    """Reads a file in chunks."""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


async def async_file_chunks(path: str) -> AsyncIterator[bytes]:
    """Reads a file in chunks, in another thread."""
    import asyncio

    file = await asyncio.to_thread(open, path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
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
        # Proxy settings of the environment do not apply to a server on this machine.
        "trust_env": not target.is_local,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


# Cached, because loading the system's certificates takes longer than creating a sandbox.
@functools.lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=1)
def _no_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _timeout(read: float | None) -> httpx.Timeout:
    return httpx.Timeout(read, connect=CONNECT_TIMEOUT, pool=CONNECT_TIMEOUT)


@contextmanager
def _map_errors(url: str) -> Iterator[None]:
    """Converts exceptions of httpx to those of this package."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise IsorunConnectionError(f"cannot connect to an isorun server at {url}: {error}") from error
    except httpx.TimeoutException as error:
        raise IsorunTimeoutError(
            f"the server at {url} did not answer in time ({type(error).__name__})"
        ) from error
    except httpx.ConnectError as error:
        raise IsorunConnectionError(
            f"cannot connect to an isorun server at {url}: {error}. Start one with `isorun serve`"
        ) from error
    except httpx.TransportError as error:
        raise IsorunConnectionError(f"the connection to {url} failed: {error}") from error
