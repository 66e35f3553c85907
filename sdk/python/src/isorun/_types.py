"""What operations give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox that was created."""

    id: str
    image: str
    vcpus: int
    mem_mib: int
    disk_mib: int
    create_ms: int
    """How long it took the server to create it."""
    status: str = "running"
    created_at: str = ""
    port_url: str = ""
    """Where its ports are reached without a key, with `{port}` in place of one."""


@dataclass(frozen=True)
class ExecResult:
    """What became of a command."""

    exit_code: int
    """As a shell says it: 128 and the signal's number when a signal ended it."""
    stdout: str
    stderr: str
    stdout_truncated: bool = False
    """Whether the end of `stdout` is missing: the server bounds what it holds."""
    stderr_truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""
        return self.exit_code == 0


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot on the server."""

    id: str
    run_id: str
    """The sandbox that it was taken of."""
    image: str
    size_bytes: int
    """What it takes on the server's disk."""
    created_at: str


@dataclass(frozen=True)
class DestroyStats:
    """What a sandbox used, from create to destroy."""

    cpu_ms: int
    mem_peak_bytes: int
    disk_used_bytes: int
    uptime_ms: int
    cost_cents: float = 0.0
