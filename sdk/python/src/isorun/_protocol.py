"""Requests and responses, without any I/O.

Both clients, the synchronous and the asynchronous one, send these operations and
parse the responses here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote, urlencode

from ._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from ._types import DestroyStats, ExecBytesResult, ExecResult, SandboxInfo, SnapshotInfo

T = TypeVar("T")

CONNECT_TIMEOUT = 10.0
DEFAULT_TIMEOUT = 60.0
# The first use of an image may have to pull it.
CREATE_TIMEOUT = 900.0
# Gigabytes of memory may have to be written to or read from a disk.
STATE_TIMEOUT = 600.0
# The additional time in seconds to wait for the server, which enforces the timeouts of
# commands itself.
RESPONSE_GRACE = 15.0


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A request, and the parser of its response."""

    method: str
    path: str
    parse: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    read_timeout: float | None = DEFAULT_TIMEOUT
    is_encoded: bool = False
    """True if the output of a command is in base64, in an error response too."""

    @property
    def target(self) -> str:
        """The path and the query. File names need not be UTF-8: they have the form that
        `os.listdir` returns, and are sent unchanged."""
        if not self.params:
            return self.path
        return f"{self.path}?{urlencode(self.params, errors='surrogateescape')}"

    def parse_response(self, status: int, content: bytes) -> T:
        """Returns the content of a response, or raises the exception for it."""
        if not 200 <= status < 300:
            raise error_response(status, content, self.is_encoded)
        try:
            return self.parse(content)
        except (ValueError, KeyError, TypeError) as error:
            raise IsorunError(
                f"the server sent an invalid response: {_excerpt(content)}", code=status
            ) from error


@dataclass(frozen=True)
class Options:
    """The options of a sandbox."""

    image: str
    vcpus: int | None
    mem_mib: int | None
    disk_mib: int | None
    sandbox_timeout: float
    network_profile: str
    allow: Sequence[str] | None
    deny: Sequence[str] | None
    env: Mapping[str, str] | None
    credentials: Mapping[str, Any] | None
    on_idle: str = "destroy"
    auto_resume: bool = False

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "image": self.image,
            "timeout": self.sandbox_timeout,
        }
        # The defaults depend on the image, and are the server's.
        for name in ("vcpus", "mem_mib", "disk_mib"):
            if (limit := getattr(self, name)) is not None:
                body[name] = limit
        if self.on_idle != "destroy":
            body["on_idle"] = self.on_idle
        if self.auto_resume:
            body["auto_resume"] = True
        if self.env:
            body["env"] = dict(self.env)
        if self.allow is not None or self.deny is not None:
            body["network"] = {"allow": list(self.allow or ()), "deny": list(self.deny or ())}
        else:
            body["network_profile"] = self.network_profile
        if self.credentials:
            body["credentials"] = dict(self.credentials)
        return body


def create(options: Options) -> Operation[SandboxInfo]:
    return Operation("POST", "/v1/runs", _info, body=options.body(), read_timeout=CREATE_TIMEOUT)


def get(run: str) -> Operation[SandboxInfo]:
    # Quoted, so that a text that is not an id cannot change the path.
    return Operation("GET", f"/v1/runs/{quote(run, safe='')}", _info)


def set_timeout(run: str, seconds: float) -> Operation[SandboxInfo]:
    return Operation("PATCH", f"/v1/runs/{run}", _info, body={"timeout": seconds})


def set_network(
    run: str, network_profile: str | None = None, allow: Sequence[str] = ()
) -> Operation[None]:
    """Changes the egress policy to a profile, or else to a list of allowed destinations."""
    body: dict[str, Any] = {"network": {"allow": list(allow)}}
    if network_profile is not None:
        body = {"network_profile": network_profile}
    return Operation("PUT", f"/v1/runs/{run}/network", lambda _: None, body=body)


def fork(run: str, count: int) -> Operation[list[SandboxInfo]]:
    return Operation(
        "POST",
        f"/v1/runs/{run}/fork",
        _forks,
        body={"count": count},
        read_timeout=STATE_TIMEOUT,
    )


def hibernate(run: str) -> Operation[SandboxInfo]:
    return Operation("POST", f"/v1/runs/{run}/hibernate", _info, read_timeout=STATE_TIMEOUT)


def resume(run: str) -> Operation[SandboxInfo]:
    return Operation("POST", f"/v1/runs/{run}/resume", _info, read_timeout=STATE_TIMEOUT)


def snapshot(run: str) -> Operation[str]:
    return Operation("POST", f"/v1/runs/{run}/snapshot", _snapshot_id, read_timeout=STATE_TIMEOUT)


def restore(snapshot_id: str) -> Operation[SandboxInfo]:
    return Operation(
        "POST",
        "/v1/runs/restore",
        _info,
        body={"snapshot_id": snapshot_id},
        read_timeout=STATE_TIMEOUT,
    )


def snapshots() -> Operation[list[SnapshotInfo]]:
    return Operation("GET", "/v1/snapshots", _snapshots)


def delete_snapshot(snapshot_id: str) -> Operation[None]:
    # Quoted, so that a text that is not an id cannot change the path.
    return Operation("DELETE", f"/v1/snapshots/{quote(snapshot_id, safe='')}", lambda _: None)


def destroy(run: str) -> Operation[DestroyStats]:
    return Operation("DELETE", f"/v1/runs/{run}", _destroy_stats)


@dataclass(frozen=True)
class Command:
    """A command, and what applies to it alone."""

    command: str | Sequence[str]
    timeout: float
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: str | None = None

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "command": self.command if isinstance(self.command, str) else list(self.command),
            "timeout": self.timeout,
        }
        if self.env:
            body["env"] = dict(self.env)
        if self.cwd is not None:
            body["cwd"] = self.cwd
        if self.stdin is not None:
            body["stdin"] = self.stdin
        return body


def execute(run: str, command: Command) -> Operation[ExecResult]:
    return Operation(
        "POST",
        f"/v1/runs/{run}/exec",
        _exec_result,
        body=command.body(),
        read_timeout=_response_timeout(command.timeout),
    )


def execute_bytes(run: str, command: Command) -> Operation[ExecBytesResult]:
    return Operation(
        "POST",
        f"/v1/runs/{run}/exec",
        _exec_bytes_result,
        body=command.body() | {"encoding": "base64"},
        read_timeout=_response_timeout(command.timeout),
        is_encoded=True,
    )


def execute_stream(run: str, command: Command) -> Operation[ExecResult]:
    return Operation(
        "POST",
        f"/v1/runs/{run}/exec/stream",
        _exec_result,
        body=command.body(),
        read_timeout=_response_timeout(command.timeout),
    )


def upload(run: str, path: str, mode: int | None = None) -> Operation[None]:
    params = {"path": path}
    if mode is not None:
        params["mode"] = f"{mode & 0o777:o}"
    return Operation("POST", f"/v1/runs/{run}/files/upload", lambda _: None, params=params)


def download(run: str, path: str) -> Operation[bytes]:
    return Operation(
        "GET", f"/v1/runs/{run}/files/download", lambda content: content, params={"path": path}
    )


def ls(run: str, path: str) -> Operation[list[str]]:
    return Operation("GET", f"/v1/runs/{run}/files", _entries, params={"path": path})


def error_response(status: int, content: bytes, is_encoded: bool = False) -> IsorunError:
    """Returns the exception for an error response. `is_encoded` is that of the operation."""
    try:
        body = json.loads(content)
        message, kind = str(body["error"]), str(body["code"])
    except (ValueError, KeyError, TypeError):
        # The response may be of a proxy.
        return IsorunError(
            f"the server responded with status {status}: {_excerpt(content)}", code=status
        )
    stdout, stderr = body.get("stdout") or "", body.get("stderr") or ""
    if is_encoded:
        stdout, stderr = (_decoded(text).decode("utf-8", "replace") for text in (stdout, stderr))
    return failure(message, status, kind, stdout, stderr)


def failure(message: str, status: int | None, kind: str, stdout: str, stderr: str) -> IsorunError:
    if kind == "exec_timeout":
        return IsorunTimeoutError(message, code=status, kind=kind, stdout=stdout, stderr=stderr)
    return IsorunError(message, code=status, kind=kind)


class BoundedBody:
    """The content of a response, up to a limit."""

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._max_bytes is not None and self._size > self._max_bytes:
            raise IsorunError(
                f"the file has more than {self._max_bytes} bytes, the limit of this download",
                kind="too_large",
            )
        self._chunks.append(chunk)

    def content(self) -> bytes:
        return b"".join(self._chunks)


class EventStream(Generic[T]):
    """A parser of server-sent events, of which only `data` is used."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[str] = []

    def feed(self, content: bytes) -> list[tuple[str, Any]]:
        """Parses bytes. Returns what listeners get, as pairs of a name and a value."""
        if b"\n" not in content:
            # A picture arrives in many parts, which are joined once.
            self._rest.append(content)
            return []
        *lines, rest = b"".join([*self._rest, content]).split(b"\n")
        self._rest = [rest]
        heard = []
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", "replace")
            if text.startswith("data:"):
                self._data.append(text[5:].removeprefix(" "))
            elif not text and self._data:
                event = self.event("\n".join(self._data))
                self._data.clear()
                if event is not None:
                    heard.append(event)
        return heard

    def event(self, data: str) -> tuple[str, Any] | None:
        """Handles an event. Returns what listeners get."""
        raise NotImplementedError

    def result(self) -> T:
        """Returns the result, after all bytes were fed."""
        raise NotImplementedError


class ExecStream(EventStream[ExecResult]):
    """A parser of the response to a streamed command."""

    def __init__(self) -> None:
        super().__init__()
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._exit_code: int | None = None

    def event(self, data: str) -> tuple[str, Any] | None:
        try:
            event = json.loads(data)
            kind = event["type"]
            if kind in ("stdout", "stderr"):
                text = str(event["data"])
                (self._stdout if kind == "stdout" else self._stderr).append(text)
                return kind, text
            if kind == "exit":
                self._exit_code = int(event["exit_code"])
                return None
            if kind != "error":
                # An event of a later server, which this client does not know.
                return None
            message, name = str(event["error"]), str(event["code"])
        except (ValueError, KeyError, TypeError) as error:
            raise IsorunError(f"the server sent an invalid response: {data[:200]}") from error
        stdout, stderr = "".join(self._stdout), "".join(self._stderr)
        raise failure(message, event.get("status"), name, stdout, stderr)

    def result(self) -> ExecResult:
        if self._exit_code is None:
            raise IsorunConnectionError("the connection ended before the command did")
        return ExecResult(self._exit_code, "".join(self._stdout), "".join(self._stderr))


def _response_timeout(timeout: float) -> float | None:
    return timeout + RESPONSE_GRACE if timeout > 0 else None


def _forks(content: bytes) -> list[SandboxInfo]:
    return [_info_of(body) for body in json.loads(content)["forks"]]


def _snapshot_id(content: bytes) -> str:
    return str(json.loads(content)["snapshot_id"])


def _snapshots(content: bytes) -> list[SnapshotInfo]:
    return [
        SnapshotInfo(
            id=str(body["id"]),
            run_id=str(body["run_id"]),
            image=str(body.get("image", "")),
            size_bytes=int(body["size_bytes"]),
            created_at=str(body["created_at"]),
        )
        for body in json.loads(content)["snapshots"]
    ]


def _info(content: bytes) -> SandboxInfo:
    return _info_of(json.loads(content))


def _info_of(body: dict[str, Any]) -> SandboxInfo:
    return SandboxInfo(
        id=str(body["id"]),
        image=str(body["image"]),
        vcpus=int(body["vcpus"]),
        mem_mib=int(body["mem_mib"]),
        disk_mib=int(body["disk_mib"]),
        create_ms=int(body["create_ms"]),
        status=str(body["status"]),
        created_at=str(body["created_at"]),
        port_url=str(body.get("port_url") or ""),
    )


def _exec_result(content: bytes) -> ExecResult:
    body = json.loads(content)
    return ExecResult(
        exit_code=int(body["exit_code"]),
        stdout=str(body["stdout"]),
        stderr=str(body["stderr"]),
        stdout_truncated=bool(body.get("stdout_truncated")),
        stderr_truncated=bool(body.get("stderr_truncated")),
    )


def _exec_bytes_result(content: bytes) -> ExecBytesResult:
    body = json.loads(content)
    return ExecBytesResult(
        exit_code=int(body["exit_code"]),
        stdout=_decoded(body["stdout"]),
        stderr=_decoded(body["stderr"]),
        stdout_truncated=bool(body.get("stdout_truncated")),
        stderr_truncated=bool(body.get("stderr_truncated")),
    )


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _destroy_stats(content: bytes) -> DestroyStats:
    body = json.loads(content)
    return DestroyStats(
        cpu_ms=int(body["cpu_ms"]),
        mem_peak_bytes=int(body["mem_peak_bytes"]),
        disk_used_bytes=int(body["disk_used_bytes"]),
        uptime_ms=int(body["uptime_ms"]),
        cost_cents=float(body.get("cost_cents", 0)),
    )


def _entries(content: bytes) -> list[str]:
    body = json.loads(content)
    if "encoded_entries" not in body:
        return [str(name) for name in body["entries"]]
    # Names that are not UTF-8 get the form that `os.listdir` returns.
    return [unquote(name, errors="surrogateescape") for name in body["encoded_entries"]]


def _excerpt(content: bytes) -> str:
    return content[:200].decode("utf-8", "replace")
