"""The protocol of a shell over a WebSocket, without any I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ._config import Target
from ._errors import IsorunConnectionError, IsorunError
from ._protocol import CONNECT_TIMEOUT, RESPONSE_GRACE, error_response, failure
from ._types import ExecResult

NO_ANSWER = "the server did not answer in time"


def address(target: Target, run: str, session: str | None, cwd: str | None) -> str:
    """Returns the URL for opening a shell or attaching to an existing one."""
    query = {}
    if session is not None:
        query["session"] = session
    elif cwd is not None:
        query["cwd"] = cwd
    url = f"ws{target.url.removeprefix('http')}/v1/runs/{run}/shell"
    return f"{url}?{urlencode(query)}" if query else url


def connect_options(target: Target) -> dict[str, Any]:
    """Returns the arguments of `connect` of websockets, in addition to the URL."""
    return {
        "additional_headers": {"authorization": f"Bearer {target.key}"} if target.key else {},
        "open_timeout": CONNECT_TIMEOUT,
        "close_timeout": 1,
        "compression": None,
        "max_size": None,
        # Proxy settings of the environment do not apply to a server on this machine.
        "proxy": None if target.is_local else True,
    }


def websockets_missing() -> IsorunError:
    """Returns the error for an installation without the package websockets."""
    return IsorunError("shells require the package websockets: pip install websockets")


def rejected(response: Any) -> IsorunError:
    """Returns the error for a response that refuses the WebSocket."""
    return error_response(response.status_code, bytes(response.body or b""))


def not_connected(target: Target, error: Exception) -> IsorunConnectionError:
    """Returns the error for a connection that could not be opened."""
    return IsorunConnectionError(f"cannot connect to an isorun server at {target.url}: {error}")


def connection_lost(error: Exception) -> IsorunConnectionError:
    """Returns the error for a connection that failed without a final message."""
    return IsorunConnectionError(f"the connection to the shell failed: {error}")


def response_timeout(timeout: float) -> float | None:
    return timeout + RESPONSE_GRACE if timeout > 0 else None


@dataclass(frozen=True)
class Output:
    """A chunk of output."""

    stream: str
    text: str


@dataclass(frozen=True)
class Ended:
    """The end of a command, or of the shell itself."""

    result: ExecResult
    closed: bool


class ShellState:
    """The state of a shell in the client."""

    def __init__(self, session: str | None) -> None:
        self.session = session
        self.closed = False
        self.pending = False
        """True if a command was abandoned whose result has not arrived."""
        self._decoders = {1: Utf8Decoder(), 2: Utf8Decoder()}

    def ensure_open(self) -> None:
        if self.closed:
            raise IsorunError("Shell is closed")

    def run_frame(self, command: str, timeout: float) -> str:
        return json.dumps({"type": "run", "command": command, "timeout": timeout})

    def feed(self, frame: str | bytes) -> Output | Ended | None:
        """Parses a frame. Raises the exception for an error frame."""
        if isinstance(frame, bytes):
            if not frame or frame[0] not in self._decoders:
                raise IsorunError("the server sent an invalid frame")
            text = self._decoders[frame[0]].feed(frame[1:])
            return Output("stdout" if frame[0] == 1 else "stderr", text)
        event = self._parse(frame)
        kind = event.get("type")
        if kind == "ready":
            self.session = str(event["session"])
            return None
        if kind in ("result", "closed"):
            self.closed = kind == "closed"
            return Ended(self._take(int(event["exit_code"])), self.closed)
        if kind == "timeout":
            out = self._take(124)
            raise failure(str(event["error"]), 504, "exec_timeout", out.stdout, out.stderr)
        if kind == "error":
            name = str(event.get("code"))
            # A hibernated shell can be attached to again after `resume`.
            self.closed = name != "run_hibernated"
            raise failure(str(event["error"]), event.get("status"), name, "", "")
        # A message of a later server, which this client does not know.
        return None

    def _take(self, code: int) -> ExecResult:
        stdout, stderr = (self._decoders[stream].take() for stream in (1, 2))
        return ExecResult(code, stdout, stderr)

    def discard_output(self) -> None:
        for decoder in self._decoders.values():
            decoder.take()

    @staticmethod
    def _parse(frame: str) -> dict[str, Any]:
        try:
            event = json.loads(frame)
            if not isinstance(event, dict):
                raise TypeError
        except (ValueError, TypeError) as error:
            raise IsorunError(f"the server sent an invalid frame: {frame[:200]}") from error
        return event


class Utf8Decoder:
    """A decoder of one stream of output, which never splits a character."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._decoded = 0

    def feed(self, content: bytes) -> str:
        self._bytes += content
        complete = len(self._bytes) - _incomplete_suffix(self._bytes)
        text = bytes(self._bytes[self._decoded : complete]).decode("utf-8", "replace")
        self._decoded = max(self._decoded, complete)
        return text

    def take(self) -> str:
        text = self._bytes.decode("utf-8", "replace")
        self._bytes.clear()
        self._decoded = 0
        return text


def _incomplete_suffix(content: bytearray) -> int:
    """Returns the number of bytes at the end that are an incomplete character."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 == 0x80:
            continue
        need = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if need > back else 0
    return 0
