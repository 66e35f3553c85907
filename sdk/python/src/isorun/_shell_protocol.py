"""A shell over a WebSocket, without any I/O: frames in, outcomes out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ._config import Target
from ._errors import IsorunConnectionError, IsorunError
from ._protocol import GRACE, failure
from ._types import ExecResult

MISSING = "shells need the package websockets: pip install websockets"
# Output of what runs in the background, between two commands.
KEPT = 1 << 20


def address(target: Target, run: str, session: str | None, cwd: str | None) -> str:
    """Where a shell is opened, or found again."""
    query = {}
    if session is not None:
        query["session"] = session
    elif cwd is not None:
        query["cwd"] = cwd
    url = f"ws{target.url.removeprefix('http')}/v1/runs/{run}/shell"
    return f"{url}?{urlencode(query)}" if query else url


def headers(target: Target) -> dict[str, str]:
    return {"authorization": f"Bearer {target.key}"} if target.key else {}


def patience(timeout: float) -> float | None:
    return timeout + GRACE if timeout > 0 else None


@dataclass(frozen=True)
class Printed:
    """A piece of output."""

    stream: str
    text: str


@dataclass(frozen=True)
class Ended:
    """A command, or the shell itself, has ended."""

    result: ExecResult
    closed: bool


class Conversation:
    """What a client knows of its shell."""

    def __init__(self, session: str | None) -> None:
        self.session = session
        self.closed = False
        self.pending = False
        """Whether a command was left alone whose outcome is still to come."""
        self._decoders = {1: Text(), 2: Text()}

    def must_be_open(self) -> None:
        if self.closed:
            raise IsorunError("Shell is closed")

    def order(self, command: str, timeout: float) -> str:
        return json.dumps({"type": "run", "command": command, "timeout": timeout})

    def feed(self, frame: str | bytes) -> Printed | Ended | None:
        """What a frame says. Raises what it means, if that is an exception."""
        if isinstance(frame, bytes):
            if not frame or frame[0] not in self._decoders:
                raise IsorunError("the server's answer makes no sense")
            text = self._decoders[frame[0]].feed(frame[1:])
            return Printed("stdout" if frame[0] == 1 else "stderr", text)
        said = self._parse(frame)
        kind = said.get("type")
        if kind == "ready":
            self.session = str(said["session"])
            return None
        if kind in ("result", "closed"):
            self.closed = kind == "closed"
            return Ended(self._take(int(said["exit_code"])), self.closed)
        if kind == "timeout":
            out = self._take(124)
            raise failure(str(said["error"]), 504, "exec_timeout", out.stdout, out.stderr)
        if kind == "error":
            name = str(said.get("code"))
            # It is on the disk, and can be found again when it is back.
            self.closed = name != "run_hibernated"
            raise failure(str(said["error"]), said.get("status"), name, "", "")
        # A later server says more than this client knows.
        return None

    def lost(self, error: Exception) -> IsorunConnectionError:
        """The connection broke without a last word."""
        return IsorunConnectionError(f"the connection to the shell broke: {error}")

    def _take(self, code: int) -> ExecResult:
        stdout, stderr = (self._decoders[stream].take() for stream in (1, 2))
        return ExecResult(code, stdout, stderr)

    def forget_output(self) -> None:
        for decoder in self._decoders.values():
            decoder.take()

    @staticmethod
    def _parse(frame: str) -> dict[str, Any]:
        try:
            said = json.loads(frame)
            if not isinstance(said, dict):
                raise TypeError
        except (ValueError, TypeError) as error:
            raise IsorunError(f"the server's answer makes no sense: {frame[:200]}") from error
        return said


class Text:
    """One stream of output: bytes in, text out. Characters stay whole."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._told = 0

    def feed(self, content: bytes) -> str:
        self._bytes += content
        whole = len(self._bytes) - _unfinished(self._bytes)
        text = bytes(self._bytes[self._told : whole]).decode("utf-8", "replace")
        self._told = max(self._told, whole)
        return text

    def take(self) -> str:
        text = self._bytes.decode("utf-8", "replace")
        self._bytes.clear()
        self._told = 0
        return text


def _unfinished(content: bytearray) -> int:
    """How many bytes at the end begin a character that may go on."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 == 0x80:
            continue
        need = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if need > back else 0
    return 0
