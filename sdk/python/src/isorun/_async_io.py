"""Input and output with asyncio. `_sync_io.py` has the same names without it.

Whatever differs between the two halves of the package by more than `async` and `await` is in
these two modules. The synchronous half is generated from the asynchronous one, which uses no
other part of asyncio.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import httpx

from . import _shell_protocol
from ._config import Target
from ._errors import IsorunTimeoutError
from ._http import CHUNK_BYTES, client_options, map_errors, timeouts
from ._protocol import BoundedBody, EventStream, Operation

T = TypeVar("T")

Lock = asyncio.Lock


class Transport:
    """A client of a server, for one event loop."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = target.url
        self._open: httpx.AsyncClient | None = None

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._open is None:
            self._open = httpx.AsyncClient(**client_options(self._target))
        return self._open

    async def send(
        self, operation: Operation[T], content: AsyncIterable[bytes] | bytes | None = None
    ) -> T:
        with map_errors(self._url):
            response = await self._client.request(
                operation.method,
                operation.target,
                json=operation.body,
                content=content,
                timeout=timeouts(operation.read_timeout),
            )
        return operation.parse_response(response.status_code, response.content)

    async def stream(
        self,
        operation: Operation[T],
        events: EventStream[T],
        listen: Callable[[str, Any], Awaitable[None]],
    ) -> T:
        with map_errors(self._url):
            async with self._client.stream(
                operation.method,
                operation.path,
                json=operation.body,
                timeout=timeouts(operation.read_timeout),
            ) as response:
                if not response.is_success:
                    return operation.parse_response(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    for name, value in events.feed(chunk):
                        await listen(name, value)
        return events.result()

    async def receive(self, operation: Operation[bytes], max_bytes: int | None) -> bytes:
        """Reads a response of any length, or of at most `max_bytes`."""
        with map_errors(self._url):
            async with self._client.stream(
                operation.method, operation.target, timeout=timeouts(operation.read_timeout)
            ) as response:
                if not response.is_success:
                    return operation.parse_response(response.status_code, await response.aread())
                body = BoundedBody(max_bytes)
                async for chunk in response.aiter_bytes():
                    body.add(chunk)
        return body.content()

    async def close(self) -> None:
        """Closes the connections. The next operation opens new ones."""
        if self._open is not None:
            client, self._open = self._open, None
            await client.aclose()


class ShellSocket:
    """The WebSocket of a shell."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, target: Target, url: str) -> ShellSocket:
        """Connects, or raises the exception for the response of the server."""
        try:
            from websockets.asyncio.client import connect
            from websockets.exceptions import InvalidStatus, WebSocketException
        except ImportError as error:
            raise _shell_protocol.websockets_missing() from error
        try:
            return cls(await connect(url, **_shell_protocol.connect_options(target)))
        except InvalidStatus as error:
            raise _shell_protocol.rejected(error.response) from error
        except (OSError, asyncio.TimeoutError, WebSocketException) as error:
            raise _shell_protocol.not_connected(target, error) from error

    async def send(self, text: str) -> None:
        """Sends a message.

        It is no error if the server has closed the connection: a last message of it may still
        be readable.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(text)
        except ConnectionClosed:
            pass
        except OSError as error:
            raise _shell_protocol.connection_lost(error) from error

    async def receive(self, timeout: float | None) -> str | bytes:
        """Returns the next message; with a timeout of 0, one that has arrived already.

        :raises IsorunTimeoutError: there was none until then.
        :raises IsorunConnectionError: the connection was closed or failed.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            frame: str | bytes
            if timeout == 0:
                frame = await self._receive_arrived()
            else:
                frame = await asyncio.wait_for(self._connection.recv(), timeout)
            return frame
        except asyncio.TimeoutError as error:
            raise IsorunTimeoutError(_shell_protocol.NO_ANSWER) from error
        except (ConnectionClosed, OSError) as error:
            raise _shell_protocol.connection_lost(error) from error

    async def close(self) -> None:
        await self._connection.close()

    async def _receive_arrived(self) -> Any:
        # `wait_for` with a timeout of 0 cancels its task before the first step, in which a
        # message that has arrived is received.
        receiving = asyncio.ensure_future(self._connection.recv())
        try:
            for _ in range(2):
                await asyncio.sleep(0)
        finally:
            receiving.cancel()
        await asyncio.wait([receiving])
        if receiving.cancelled():
            raise asyncio.TimeoutError
        return receiving.result()


async def file_chunks(path: str) -> AsyncIterator[bytes]:
    """Reads a file in chunks, in another thread."""
    file = await asyncio.to_thread(open, path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


async def notify(listener: Callable[[Any], object], value: Any) -> None:
    """Calls a callback of the caller, and awaits it if it is asynchronous."""
    answer = listener(value)
    if inspect.isawaitable(answer):
        await answer
