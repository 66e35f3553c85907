"""The results of operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SandboxInfo:
    """The properties of a sandbox."""

    id: str
    image: str
    vcpus: int
    mem_mib: int
    disk_mib: int
    create_ms: int
    """The time that the server took to create it, in milliseconds."""
    status: str = "running"
    created_at: str = ""
    port_url: str = ""
    """The template of the public URLs of its ports, with the placeholder `{port}`."""


@dataclass(frozen=True)
class ExecResult:
    """The result of a command."""

    exit_code: int
    """The exit code, as in a shell: 128 plus the signal's number if a signal killed it."""
    stdout: str
    stderr: str
    stdout_truncated: bool = False
    """True if the end of `stdout` is missing, since the server limits its size."""
    stderr_truncated: bool = False

    @property
    def ok(self) -> bool:
        """True if the command succeeded."""
        return self.exit_code == 0


@dataclass(frozen=True)
class ExecBytesResult:
    """The result of a command, with its output byte for byte."""

    exit_code: int
    """The exit code, as in a shell: 128 plus the signal's number if a signal killed it."""
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    """True if the end of `stdout` is missing, since the server limits its size."""
    stderr_truncated: bool = False

    @property
    def ok(self) -> bool:
        """True if the command succeeded."""
        return self.exit_code == 0


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot on the server."""

    id: str
    run_id: str
    """The id of the sandbox from which it was taken."""
    image: str
    size_bytes: int
    """The size on the server's disk, in bytes."""
    created_at: str


@dataclass(frozen=True)
class DestroyStats:
    """The resource usage of a sandbox, from creation to destruction."""

    cpu_ms: int
    mem_peak_bytes: int
    disk_used_bytes: int
    uptime_ms: int
    cost_cents: float = 0.0
