"""Blocking input and output. `_async_io.py` has the same names for asyncio.

Whatever differs between the two halves of the package by more than `async` and `await` is in
these two modules. The synchronous half is generated from the asynchronous one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import httpx

from . import _shell_protocol
from ._config import Target
from ._errors import IsorunTimeoutError
from ._http import CHUNK_BYTES, client_options, map_errors, timeouts
from ._protocol import BoundedBody, EventStream, Operation

T = TypeVar("T")

Lock = threading.Lock


class Transport:
    """A client of a server, which any number of threads can use."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._url = target.url
        self._open: httpx.Client | None = None

    @property
    def _client(self) -> httpx.Client:
        if self._open is None:
            self._open = httpx.Client(**client_options(self._target))
        return self._open

    def send(self, operation: Operation[T], content: Iterable[bytes] | bytes | None = None) -> T:
        with map_errors(self._url):
            response = self._client.request(
                operation.method,
                operation.target,
                json=operation.body,
                content=content,
                timeout=timeouts(operation.read_timeout),
            )
        return operation.parse_response(response.status_code, response.content)

    def stream(
        self,
        operation: Operation[T],
        events: EventStream[T],
        listen: Callable[[str, Any], None],
    ) -> T:
        with map_errors(self._url):
            with self._client.stream(
                operation.method,
                operation.path,
                json=operation.body,
                timeout=timeouts(operation.read_timeout),
            ) as response:
                if not response.is_success:
                    return operation.parse_response(response.status_code, response.read())
                for chunk in response.iter_bytes():
                    for name, value in events.feed(chunk):
                        listen(name, value)
        return events.result()

    def receive(self, operation: Operation[bytes], max_bytes: int | None) -> bytes:
        """Reads a response of any length, or of at most `max_bytes`."""
        with map_errors(self._url):
            with self._client.stream(
                operation.method, operation.target, timeout=timeouts(operation.read_timeout)
            ) as response:
                if not response.is_success:
                    return operation.parse_response(response.status_code, response.read())
                body = BoundedBody(max_bytes)
                for chunk in response.iter_bytes():
                    body.add(chunk)
        return body.content()

    def close(self) -> None:
        """Closes the connections. The next operation opens new ones."""
        if self._open is not None:
            client, self._open = self._open, None
            client.close()

    # Closes the connections of a sandbox that is kept running instead of destroyed.
    __del__ = close


class ShellSocket:
    """The WebSocket of a shell."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, target: Target, url: str) -> ShellSocket:
        """Connects, or raises the exception for the response of the server."""
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise _shell_protocol.websockets_missing() from error
        try:
            # Later versions require the context manager to be entered; earlier ones allow it.
            manager = connect(url, **_shell_protocol.connect_options(target))
            return cls(manager.__enter__())
        except InvalidStatus as error:
            raise _shell_protocol.rejected(error.response) from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise _shell_protocol.not_connected(target, error) from error

    def send(self, text: str) -> None:
        """Sends a message.

        It is no error if the server has closed the connection: a last message of it may still
        be readable.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            self._connection.send(text)
        except ConnectionClosed:
            pass
        except OSError as error:
            raise _shell_protocol.connection_lost(error) from error

    def receive(self, timeout: float | None) -> str | bytes:
        """Returns the next message; with a timeout of 0, one that has arrived already.

        :raises IsorunTimeoutError: there was none until then.
        :raises IsorunConnectionError: the connection was closed or failed.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            frame: str | bytes = self._connection.recv(timeout)
            return frame
        except TimeoutError as error:
            raise IsorunTimeoutError(_shell_protocol.NO_ANSWER) from error
        except (ConnectionClosed, OSError) as error:
            raise _shell_protocol.connection_lost(error) from error

    def close(self) -> None:
        self._connection.close()


def file_chunks(path: str) -> Iterator[bytes]:
    """Reads a file in chunks."""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def notify(listener: Callable[[Any], object], value: Any) -> None:
    """Calls a callback of the caller."""
    listener(value)
