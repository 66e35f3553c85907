"""`Shell`: a bash that stays, in a sandbox."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from . import _shell_protocol as protocol
from ._config import Target
from ._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from ._protocol import CONNECT_TIMEOUT, GRACE, USUAL_TIMEOUT, refusal
from ._types import ExecResult


class Shell:
    """A bash that runs one command after the other, and remembers all between.

    It is opened by its first use, and closed at the end of its `with` block.
    """

    def __init__(
        self, target: Target, run: str, timeout: float, session: str | None, cwd: str | None
    ) -> None:
        self._target, self._run, self._timeout, self._cwd = target, run, timeout, cwd
        self._talk = protocol.Conversation(session)
        self._socket: Any = None
        self._lock = threading.Lock()

    @property
    def session(self) -> str | None:
        """Its name, with which it is found again: here or in a fork."""
        return self._talk.session

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._talk.closed

    def run(
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
        with self._lock:
            self._talk.must_be_open()
            ended = self._hear()
            if ended is not None:
                return ended
            self._open()
            self._settle()
            self._talk.pending = True
            try:
                self._send(self._talk.order(command, seconds))
                result = self._outcome(protocol.patience(seconds), listeners)
            except IsorunTimeoutError:
                self._talk.pending = False
                raise
            except IsorunError:
                raise
            except BaseException:
                # A callback that raised, or Ctrl-C: what runs is not wanted.
                self._interrupt()
                raise
            self._talk.pending = False
            if self._talk.closed:
                self._disconnect()
            return result

    def open(self) -> Shell:
        """Opens it now, and not with its first command."""
        with self._lock:
            self._talk.must_be_open()
            self._open()
        return self

    def close(self) -> None:
        """Ends it."""
        with self._lock:
            if self._socket is not None and not self._talk.closed:
                try:
                    self._send('{"type":"close"}')
                    while not self._talk.closed:
                        self._talk.feed(self._receive(time.monotonic() + 5))
                except IsorunError:
                    # It is gone one way or the other.
                    pass
            self._talk.closed = True
            self._disconnect()

    def __enter__(self) -> Shell:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._socket is not None:
            return
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise IsorunError(protocol.MISSING) from error
        url = protocol.address(self._target, self._run, self._talk.session, self._cwd)
        try:
            # Later versions want to be entered; those before do not mind.
            manager = connect(
                url,
                additional_headers=protocol.headers(self._target),
                open_timeout=CONNECT_TIMEOUT,
                close_timeout=1,
                compression=None,
                max_size=None,
                # A proxy of the environment has no business on the way to this machine.
                proxy=None if self._target.is_local else True,
            )
            self._socket = manager.__enter__()
        except InvalidStatus as error:
            raise refusal(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise IsorunConnectionError(
                f"no isorun server answers at {self._target.url}: {error}"
            ) from error
        self._talk.feed(self._receive(time.monotonic() + USUAL_TIMEOUT))

    def _hear(self) -> ExecResult | None:
        """Hears what was said since the last command.

        That may be that the sandbox was hibernated: then the shell is found again.
        Or that the shell has ended, and with what code.
        """
        while self._socket is not None and not self._talk.pending:
            try:
                said = self._talk.feed(self._receive(time.monotonic()))
                if isinstance(said, protocol.Ended) and said.closed:
                    self._disconnect()
                    return said.result
            except (IsorunTimeoutError, IsorunConnectionError):
                return None
            except IsorunError as error:
                if error.kind != "run_hibernated":
                    raise
        return None

    def _settle(self) -> None:
        """Waits for the end of a command that was left alone."""
        if not self._talk.pending:
            return
        try:
            self._outcome(GRACE, {})
        except IsorunTimeoutError:
            pass
        self._talk.pending = False
        self._talk.forget_output()

    def _outcome(
        self, seconds: float | None, listeners: dict[str, Callable[[str], object] | None]
    ) -> ExecResult:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            said = self._talk.feed(self._receive(end))
            if isinstance(said, protocol.Ended):
                return said.result
            if isinstance(said, protocol.Printed):
                listener = listeners.get(said.stream)
                if listener is not None and said.text:
                    listener(said.text)

    def _send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(text)
        except (ConnectionClosed, OSError) as error:
            # Its last word may still be there to be read.
            if not isinstance(error, ConnectionClosed):
                self._disconnect()
                raise self._talk.lost(error) from error

    def _receive(self, end: float | None) -> str | bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            timeout = None if end is None else max(0.0, end - time.monotonic())
            frame: str | bytes = self._socket.recv(timeout)
            if isinstance(frame, str) and '"error"' in frame:
                self._disconnect()
            return frame
        except TimeoutError as error:
            raise IsorunTimeoutError("the server did not answer in time") from error
        except (ConnectionClosed, OSError) as error:
            self._disconnect()
            raise self._talk.lost(error) from error

    def _interrupt(self) -> None:
        try:
            self._send('{"type":"interrupt"}')
        except IsorunError:
            pass

    def _disconnect(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket.close()
