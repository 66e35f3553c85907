"""`AsyncShell`: `Shell` for asyncio. The same names, in the same order."""

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
from ._protocol import CONNECT_TIMEOUT, GRACE, USUAL_TIMEOUT, refusal
from ._types import ExecResult


class AsyncShell:
    """A bash that runs one command after the other, and remembers all between.

    It is opened by its first use, and closed at the end of its `async with` block.
    """

    def __init__(
        self, target: Target, run: str, timeout: float, session: str | None, cwd: str | None
    ) -> None:
        self._target, self._run, self._timeout, self._cwd = target, run, timeout, cwd
        self._talk = protocol.Conversation(session)
        self._socket: Any = None
        self._lock = asyncio.Lock()

    @property
    def session(self) -> str | None:
        """Its name, with which it is found again: here or in a fork."""
        return self._talk.session

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._talk.closed

    async def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> ExecResult:
        """Runs a command: any number of lines.

        If it ends the shell itself, the result has the exit code of that, and there
        is no other command.

        :param timeout: how many seconds it may take; 0 or -1 for any time. By
            default that of the sandbox.
        :raises IsorunTimeoutError: it took longer, and was interrupted. The shell
            is as it was.
        """
        seconds = self._timeout if timeout is None else timeout
        listeners = {"stdout": on_stdout, "stderr": on_stderr}
        async with self._lock:
            self._talk.must_be_open()
            ended = await self._hear()
            if ended is not None:
                return ended
            await self._open()
            await self._settle()
            self._talk.pending = True
            try:
                await self._send(self._talk.order(command, seconds))
                result = await self._outcome(protocol.patience(seconds), listeners)
            except IsorunTimeoutError:
                self._talk.pending = False
                raise
            except IsorunError:
                raise
            except BaseException:
                # A callback that raised, or a task that was cancelled.
                await self._interrupt()
                raise
            self._talk.pending = False
            if self._talk.closed:
                await self._disconnect()
            return result

    async def open(self) -> AsyncShell:
        """Opens it now, and not with its first command."""
        async with self._lock:
            self._talk.must_be_open()
            await self._open()
        return self

    async def close(self) -> None:
        """Ends it."""
        async with self._lock:
            if self._socket is not None and not self._talk.closed:
                try:
                    await self._send('{"type":"close"}')
                    while not self._talk.closed:
                        self._talk.feed(await self._receive(time.monotonic() + 5))
                except IsorunError:
                    # It is gone one way or the other.
                    pass
            self._talk.closed = True
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
            raise IsorunError(protocol.MISSING) from error
        url = protocol.address(self._target, self._run, self._talk.session, self._cwd)
        try:
            self._socket = await connect(
                url,
                additional_headers=protocol.headers(self._target),
                open_timeout=CONNECT_TIMEOUT,
                close_timeout=1,
                compression=None,
                max_size=None,
                # A proxy of the environment has no business on the way to this machine.
                proxy=None if self._target.is_local else True,
            )
        except InvalidStatus as error:
            raise refusal(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, asyncio.TimeoutError, WebSocketException) as error:
            raise IsorunConnectionError(
                f"no isorun server answers at {self._target.url}: {error}"
            ) from error
        self._talk.feed(await self._receive(time.monotonic() + USUAL_TIMEOUT))

    async def _hear(self) -> ExecResult | None:
        """Hears what was said since the last command.

        That may be that the sandbox was hibernated: then the shell is found again.
        Or that the shell has ended, and with what code.
        """
        while self._socket is not None and not self._talk.pending:
            hearing = asyncio.ensure_future(self._receive(None))
            # What has arrived is there at once.
            for _ in range(2):
                await asyncio.sleep(0)
            if not hearing.done():
                hearing.cancel()
                await asyncio.wait([hearing])
                if hearing.cancelled():
                    return None
            try:
                said = self._talk.feed(hearing.result())
                if isinstance(said, protocol.Ended) and said.closed:
                    await self._disconnect()
                    return said.result
            except IsorunConnectionError:
                return None
            except IsorunError as error:
                if error.kind != "run_hibernated":
                    raise
        return None

    async def _settle(self) -> None:
        """Waits for the end of a command that was left alone."""
        if not self._talk.pending:
            return
        try:
            await self._outcome(GRACE, {})
        except IsorunTimeoutError:
            pass
        self._talk.pending = False
        self._talk.forget_output()

    async def _outcome(
        self, seconds: float | None, listeners: dict[str, Callable[[str], object] | None]
    ) -> ExecResult:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            said = self._talk.feed(await self._receive(end))
            if isinstance(said, protocol.Ended):
                return said.result
            if isinstance(said, protocol.Printed):
                listener = listeners.get(said.stream)
                if listener is not None and said.text:
                    answer = listener(said.text)
                    if inspect.isawaitable(answer):
                        await answer

    async def _send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await self._socket.send(text)
        except (ConnectionClosed, OSError) as error:
            # Its last word may still be there to be read.
            if not isinstance(error, ConnectionClosed):
                await self._disconnect()
                raise self._talk.lost(error) from error

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
            raise self._talk.lost(error) from error

    async def _interrupt(self) -> None:
        try:
            await self._send('{"type":"interrupt"}')
        except IsorunError:
            pass

    async def _disconnect(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()
