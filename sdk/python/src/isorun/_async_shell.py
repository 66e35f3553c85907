"""The class `AsyncShell`: `Shell` for asyncio, with the same names in the same order."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from . import _shell_protocol as protocol
from ._config import Target
from ._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from ._protocol import CONNECT_TIMEOUT, DEFAULT_TIMEOUT, RESPONSE_GRACE, error_response
from ._types import ExecResult


class AsyncShell:
    """A bash session, which runs commands one after the other and keeps its state.

    It is opened on first use, and closed at the end of its `async with` block.
    """

    def __init__(
        self, target: Target, run: str, timeout: float, session: str | None, cwd: str | None
    ) -> None:
        self._target, self._run, self._timeout, self._cwd = target, run, timeout, cwd
        self._state = protocol.ShellState(session)
        self._socket: Any = None
        self._lock = asyncio.Lock()

    @property
    def session(self) -> str | None:
        """The id of the session, to attach to it again, here or in a fork."""
        return self._state.session

    @property
    def closed(self) -> bool:
        """True if the shell has ended."""
        return self._state.closed

    async def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> ExecResult:
        """Runs a command, which may have several lines.

        If it ends the shell, the result has the exit code of the shell, and no further
        command can be run.

        :param timeout: the timeout in seconds; 0 or -1 for no timeout. The default is
            that of the sandbox.
        :raises IsorunTimeoutError: the command exceeded the timeout and was
            interrupted. The shell remains usable.
        """
        seconds = self._timeout if timeout is None else timeout
        listeners = {"stdout": on_stdout, "stderr": on_stderr}
        async with self._lock:
            self._state.ensure_open()
            ended = await self._read_pending()
            if ended is not None:
                return ended
            await self._open()
            await self._finish_abandoned()
            self._state.pending = True
            try:
                await self._send(self._state.run_frame(command, seconds))
                result = await self._wait_for_result(protocol.response_timeout(seconds), listeners)
            except IsorunTimeoutError:
                self._state.pending = False
                raise
            except IsorunError:
                raise
            except BaseException:
                # A callback raised an exception, or the task was cancelled.
                await self._interrupt()
                raise
            self._state.pending = False
            if self._state.closed:
                await self._disconnect()
            return result

    async def open(self) -> AsyncShell:
        """Opens the shell immediately instead of with its first command."""
        async with self._lock:
            self._state.ensure_open()
            await self._open()
        return self

    async def close(self) -> None:
        """Ends the shell."""
        async with self._lock:
            if self._socket is not None and not self._state.closed:
                try:
                    await self._send('{"type":"close"}')
                    while not self._state.closed:
                        self._state.feed(await self._receive(time.monotonic() + 5))
                except IsorunError:
                    # The shell has ended in either case.
                    pass
            self._state.closed = True
            await self._disconnect()

    async def __aenter__(self) -> AsyncShell:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _open(self) -> None:
        if self._socket is not None:
            return
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.asyncio.client import connect
        except ImportError as error:
            raise IsorunError(protocol.WEBSOCKETS_MISSING) from error
        url = protocol.address(self._target, self._run, self._state.session, self._cwd)
        try:
            self._socket = await connect(
                url,
                additional_headers=protocol.headers(self._target),
                open_timeout=CONNECT_TIMEOUT,
                close_timeout=1,
                compression=None,
                max_size=None,
                # Proxy settings of the environment do not apply to a server on this machine.
                proxy=None if self._target.is_local else True,
            )
        except InvalidStatus as error:
            raise error_response(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, asyncio.TimeoutError, WebSocketException) as error:
            raise IsorunConnectionError(
                f"cannot connect to an isorun server at {self._target.url}: {error}"
            ) from error
        self._state.feed(await self._receive(time.monotonic() + DEFAULT_TIMEOUT))

    async def _read_pending(self) -> ExecResult | None:
        """Reads the messages that arrived since the last command.

        If the sandbox was hibernated, the shell is attached to again later. If the shell
        has ended, its result is returned.
        """
        while self._socket is not None and not self._state.pending:
            receiving = asyncio.ensure_future(self._receive(None))
            # A message that has arrived is received immediately.
            for _ in range(2):
                await asyncio.sleep(0)
            if not receiving.done():
                receiving.cancel()
                await asyncio.wait([receiving])
                if receiving.cancelled():
                    return None
            try:
                event = self._state.feed(receiving.result())
                if isinstance(event, protocol.Ended) and event.closed:
                    await self._disconnect()
                    return event.result
            except IsorunConnectionError:
                return None
            except IsorunError as error:
                if error.kind != "run_hibernated":
                    raise
        return None

    async def _finish_abandoned(self) -> None:
        """Waits for the end of a command that was abandoned."""
        if not self._state.pending:
            return
        try:
            await self._wait_for_result(RESPONSE_GRACE, {})
        except IsorunTimeoutError:
            pass
        self._state.pending = False
        self._state.discard_output()

    async def _wait_for_result(
        self, seconds: float | None, listeners: dict[str, Callable[[str], object] | None]
    ) -> ExecResult:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            event = self._state.feed(await self._receive(end))
            if isinstance(event, protocol.Ended):
                return event.result
            if isinstance(event, protocol.Output):
                listener = listeners.get(event.stream)
                if listener is not None and event.text:
                    answer = listener(event.text)
                    if inspect.isawaitable(answer):
                        await answer

    async def _send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._socket.send(text)
        except (ConnectionClosed, OSError) as error:
            # A last message of the server may still be readable.
            if not isinstance(error, ConnectionClosed):
                await self._disconnect()
                raise self._state.lost(error) from error

    async def _receive(self, end: float | None) -> str | bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            timeout = None if end is None else max(0.0, end - time.monotonic())
            frame: str | bytes = await asyncio.wait_for(self._socket.recv(), timeout)
            if isinstance(frame, str) and '"error"' in frame:
                await self._disconnect()
            return frame
        except asyncio.TimeoutError as error:
            raise IsorunTimeoutError("the server did not answer in time") from error
        except (ConnectionClosed, OSError) as error:
            await self._disconnect()
            raise self._state.lost(error) from error

    async def _interrupt(self) -> None:
        try:
            await self._send('{"type":"interrupt"}')
        except IsorunError:
            pass

    async def _disconnect(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()
