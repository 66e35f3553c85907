"""The options of templates and sandboxes, checked."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Callable, Literal, TypedDict

from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._http import HttpHandler

RuntimeName = Literal["python", "js"]
Permission = Literal["read", "write", "read-write"]
HostcallHandler = Callable[[Any], Awaitable[Any]]

_PERMISSIONS = ("read", "write", "read-write")


@dataclass(frozen=True)
class MountConfig:
    """Shows a folder of the host at an absolute path of the guest.

    Read-only unless told otherwise. `dir_perms` is about the entries of
    folders, `file_perms` about the content of files.
    """

    host: str | os.PathLike[str]
    guest: str
    dir_perms: Permission = "read"
    file_perms: Permission = "read"

    def __post_init__(self) -> None:
        for option in ("dir_perms", "file_perms"):
            value = getattr(self, option)
            if value not in _PERMISSIONS:
                raise InvalidArgumentError(
                    f'{option} is {value!r}: use "read", "write" or "read-write"'
                )


@dataclass(frozen=True)
class Progress:
    """How far a build is."""

    phase: Literal["download", "compile"]
    received: int | None = None
    """The bytes of a download that have arrived."""
    total: int | None = None
    """All bytes of a download, if that is known."""


class SourceOptions(TypedDict, total=False):
    """The options of `resolve_runtime`."""

    version: str | None
    runtime_path: str | os.PathLike[str] | None
    runtime_lib_dir: str | os.PathLike[str] | None
    runtimes_dir: str | os.PathLike[str] | None
    download_url: str | None
    runtime_sha256: str | None
    on_progress: Callable[[Progress], object] | None


class TemplateOptions(SourceOptions, total=False):
    """The options of `build_template`."""

    cache_dir: str | os.PathLike[str] | None
    max_memory: int | None
    limits: Limits | None
    prelude: str | None
    mounts: Sequence[MountConfig] | None
    env: Mapping[str, str] | None


class _CommonOptions(TypedDict, total=False):
    max_memory: int | None
    limits: Limits | None
    mounts: Sequence[MountConfig] | None
    env: Mapping[str, str] | None


class SandboxOptions(_CommonOptions, total=False):
    """The options of `SandboxTemplate.create`."""

    hostcalls: Mapping[str, HostcallHandler] | None
    http: Literal[True] | HttpHandler | None
    http_handler: Literal[True] | HttpHandler | None


class SyncSandboxOptions(_CommonOptions, total=False):
    """The same in `isola.sync`: a handler may be a plain function."""

    hostcalls: Mapping[str, Callable[[Any], Any]] | None
    http: Literal[True] | Callable[[Any], Any] | None
    http_handler: Literal[True] | Callable[[Any], Any] | None


def mount_list(mounts: Sequence[MountConfig] | None) -> list[tuple[str, str, str, str]]:
    """Mounts as the native half takes them."""
    listed: list[tuple[str, str, str, str]] = []
    for index, mount in enumerate(mounts or ()):
        if not isinstance(mount, MountConfig):
            raise InvalidArgumentError(
                f"mounts[{index}] is a {type(mount).__name__}: use MountConfig(host, guest)"
            )
        listed.append(
            (os.fspath(mount.host), mount.guest, mount.dir_perms, mount.file_perms)
        )
    return listed


def env_list(env: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Environment variables as the native half takes them."""
    listed = []
    for key, value in (env or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgumentError(f"env[{key!r}]: names and values are strings")
        listed.append((key, value))
    return listed


@dataclass(frozen=True)
class Limits:
    """What a sandbox may use. `None` leaves a limit as it is.

    Times are seconds, and `math.inf` is no limit; sizes are bytes.
    """

    max_memory: int | None = None
    """All memory of the sandbox, the interpreter's own included. Default: 256 MiB."""
    cpu_timeout: float | None = None
    """CPU time of one call; waiting does not count. Default: 30 s."""
    timeout: float | None = None
    """Wall time of one call. Default: none."""
    max_value_size: int | None = None
    """The JSON text of one value, either way. Default: 16 MiB."""
    max_output_size: int | None = None
    """Output, logs and partial results of one call together. Default: 16 MiB."""
    max_recursion: int | None = None
    """How deep Python calls may nest. Default: 1,000."""
    max_pending_hostcalls: int | None = None
    """Hostcalls under way at once. Default: 4,096."""
    max_held_memory: int | None = None
    """What the host holds for the guest's hostcalls. Default: 64 MiB."""
    max_handles: int | None = None
    """Files, folders, streams and timers open at once. Default: 1,024."""
    max_requests: int | None = None
    """HTTP requests under way at once. Default: 64."""

    def __post_init__(self) -> None:
        seconds("cpu_timeout", self.cpu_timeout)
        seconds("timeout", self.timeout)
        for option in (each.name for each in fields(self)):
            if option not in ("cpu_timeout", "timeout"):
                _whole_number(option, getattr(self, option))


def limits_of(limits: object, max_memory: int | None) -> Limits:
    """`limits`, and `max_memory` over them."""
    if limits is None:
        return Limits(max_memory=max_memory)
    if not isinstance(limits, Limits):
        raise InvalidArgumentError(
            f"limits is a {type(limits).__name__}: use Limits(max_memory=..., timeout=...)"
        )
    return limits if max_memory is None else replace(limits, max_memory=max_memory)


def _whole_number(option: str, value: object) -> None:
    if value is None:
        return
    top = (1 << 32) - 1 if option == "max_recursion" else (1 << 63) - 1
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= top:
        is_size = option.endswith(("memory", "size"))
        number = "a number of bytes" if is_size else "a whole number"
        raise InvalidArgumentError(f"{option} is {value!r}: give {number} above 0")


def seconds(option: str, value: object) -> float | None:
    """A time limit, or none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidArgumentError(
            f"{option} is {value!r}: give a number of seconds above 0"
        )
    return float(value)


def refuse_unknown(unknown: Mapping[str, object], what: str, known: Sequence[str]) -> None:
    """Names an option that does not exist."""
    for name in unknown:
        raise InvalidArgumentError(
            f"unknown option {name!r} of {what}: it has {', '.join(known)}"
        )
