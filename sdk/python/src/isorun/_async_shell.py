"""The class `AsyncShell`: a bash session in a sandbox, for asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from . import _shell_protocol as protocol
from ._async_io import Lock, ShellSocket, notify
from ._config import Target
from ._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from ._protocol import DEFAULT_TIMEOUT, RESPONSE_GRACE
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
        self._socket: ShellSocket | None = None
        self._lock = Lock()

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
                # A callback raised an exception, or the caller gave up: stop the command.
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
        url = protocol.address(self._target, self._run, self._state.session, self._cwd)
        self._socket = await ShellSocket.connect(self._target, url)
        self._state.feed(await self._receive(time.monotonic() + DEFAULT_TIMEOUT))

    async def _read_pending(self) -> ExecResult | None:
        """Reads the messages that arrived since the last command.

        If the sandbox was hibernated, the shell is attached to again later. If the shell
        has ended, its result is returned.
        """
        while self._socket is not None and not self._state.pending:
            try:
                event = self._state.feed(await self._receive(time.monotonic()))
                if isinstance(event, protocol.Ended) and event.closed:
                    await self._disconnect()
                    return event.result
            except (IsorunTimeoutError, IsorunConnectionError):
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
                    await notify(listener, event.text)

    def _connected(self) -> ShellSocket:
        if self._socket is None:
            raise IsorunConnectionError("the connection to the shell is closed")
        return self._socket

    async def _send(self, text: str) -> None:
        try:
            await self._connected().send(text)
        except IsorunConnectionError:
            await self._disconnect()
            raise

    async def _receive(self, end: float | None) -> str | bytes:
        """Receives a message, until a time of the monotonic clock at the latest."""
        timeout = None if end is None else max(0.0, end - time.monotonic())
        try:
            frame = await self._connected().receive(timeout)
        except IsorunConnectionError:
            await self._disconnect()
            raise
        if isinstance(frame, str) and '"error"' in frame:
            await self._disconnect()
        return frame

    async def _interrupt(self) -> None:
        try:
            await self._send('{"type":"interrupt"}')
        except IsorunError:
            pass

    async def _disconnect(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()
