"""The options of templates and sandboxes, and their validation."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Callable, Literal, TypedDict

from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._http import HttpHandler

RuntimeName = Literal["python", "python-data", "js"]
Permission = Literal["read", "write", "read-write"]
HostcallHandler = Callable[[Any], Awaitable[Any]]

_PERMISSIONS = ("read", "write", "read-write")


@dataclass(frozen=True)
class MountConfig:
    """A directory of the host that is mounted at an absolute path of the guest.

    Read-only by default. `dir_perms` applies to the entries of directories,
    `file_perms` to the content of files.
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
    """The progress of a build."""

    phase: Literal["download", "compile"]
    received: int | None = None
    """The number of bytes downloaded so far."""
    total: int | None = None
    """The size of the download in bytes, if it is known."""


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
    max_storage: int | None
    limits: Limits | None
    reuse_memory: bool
    prelude: str | None
    mounts: Sequence[MountConfig] | None
    env: Mapping[str, str] | None


class _CommonOptions(TypedDict, total=False):
    max_memory: int | None
    max_storage: int | None
    limits: Limits | None
    mounts: Sequence[MountConfig] | None
    env: Mapping[str, str] | None
    arguments: Sequence[str] | None


class SandboxOptions(_CommonOptions, total=False):
    """The options of `SandboxTemplate.create`."""

    hostcalls: Mapping[str, HostcallHandler] | None
    http: Literal[True] | HttpHandler | None
    http_handler: Literal[True] | HttpHandler | None


class SyncSandboxOptions(_CommonOptions, total=False):
    """The sandbox options of `isola.sync`, where a handler may be a plain function."""

    hostcalls: Mapping[str, Callable[[Any], Any]] | None
    http: Literal[True] | Callable[[Any], Any] | None
    http_handler: Literal[True] | Callable[[Any], Any] | None


def mount_list(mounts: Sequence[MountConfig] | None) -> list[tuple[str, str, str, str]]:
    """Converts mounts to the form that the native module takes."""
    listed: list[tuple[str, str, str, str]] = []
    for index, mount in enumerate(mounts or ()):
        if not isinstance(mount, MountConfig):
            raise InvalidArgumentError(
                f"mounts[{index}] is a {type(mount).__name__}: use MountConfig(host, guest)"
            )
        listed.append((os.fspath(mount.host), mount.guest, mount.dir_perms, mount.file_perms))
    return listed


def env_list(env: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Converts environment variables to the form that the native module takes."""
    listed = []
    for key, value in (env or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgumentError(f"env[{key!r}]: names and values must be strings")
        listed.append((key, value))
    return listed


def argument_list(arguments: Sequence[str] | None) -> list[str] | None:
    """Checks the arguments of a program."""
    if arguments is None:
        return None
    if isinstance(arguments, str) or not isinstance(arguments, Sequence):
        raise InvalidArgumentError(f"arguments is {arguments!r}: give a list of strings")
    for index, argument in enumerate(arguments):
        if not isinstance(argument, str):
            raise InvalidArgumentError(f"arguments[{index}] is {argument!r}: give a string")
    return list(arguments)


@dataclass(frozen=True)
class Limits:
    """The limits of a sandbox. `None` leaves a limit unchanged.

    Times are in seconds, and `math.inf` means no limit; sizes are in bytes.
    """

    max_memory: int | None = None
    """The total memory of the sandbox, including the interpreter. Default: 256 MiB."""
    cpu_timeout: float | None = None
    """The CPU time of one call; waiting does not count. Default: 30 s."""
    timeout: float | None = None
    """The wall time of one call. Default: no limit."""
    max_value_size: int | None = None
    """The size of the JSON text of one value, in either direction. Default: 16 MiB."""
    max_output_size: int | None = None
    """The total output, logs and partial results of one call. Default: 16 MiB."""
    max_recursion: int | None = None
    """The maximum depth of nested Python calls. Default: 1,000."""
    max_pending_hostcalls: int | None = None
    """The maximum number of concurrent hostcalls. Default: 4,096."""
    max_held_memory: int | None = None
    """The memory that the host holds for the guest's hostcalls. Default: 64 MiB."""
    max_storage: int | None = None
    """The size of the sandbox's own files; 0 for none. Default: 64 MiB."""
    max_handles: int | None = None
    """The maximum number of open files, directories, streams and timers. Default: 1,024."""
    max_requests: int | None = None
    """The maximum number of concurrent HTTP requests. Default: 64."""

    def __post_init__(self) -> None:
        seconds("cpu_timeout", self.cpu_timeout)
        seconds("timeout", self.timeout)
        for option in (each.name for each in fields(self)):
            if option not in ("cpu_timeout", "timeout"):
                _check_integer(option, getattr(self, option))


def limits_of(limits: object, max_memory: int | None, max_storage: int | None) -> Limits:
    """Returns `limits`, with `max_memory` and `max_storage` replaced if they are given."""
    if limits is None:
        return Limits(max_memory=max_memory, max_storage=max_storage)
    if not isinstance(limits, Limits):
        raise InvalidArgumentError(
            f"limits is a {type(limits).__name__}: use Limits(max_memory=..., timeout=...)"
        )
    given = {"max_memory": max_memory, "max_storage": max_storage}
    return replace(limits, **{name: size for name, size in given.items() if size is not None})


def _check_integer(option: str, value: object) -> None:
    if value is None:
        return
    maximum = (1 << 32) - 1 if option == "max_recursion" else (1 << 63) - 1
    minimum = 0 if option == "max_storage" else 1
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        is_size = option.endswith(("memory", "size", "storage"))
        number = "a number of bytes" if is_size else "an integer"
        allowed = "above 0" if minimum else "of 0 or more"
        raise InvalidArgumentError(f"{option} is {value!r}: give {number} {allowed}")


def seconds(option: str, value: object) -> float | None:
    """Validates a time limit in seconds; `None` means that it was not given."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidArgumentError(f"{option} is {value!r}: give a number of seconds above 0")
    return float(value)


def refuse_unknown(unknown: Mapping[str, object], what: str, known: Sequence[str]) -> None:
    """Raises an error that names the first unknown option, if there is one."""
    for name in unknown:
        raise InvalidArgumentError(
            f"unknown option {name!r} of {what}: the options are {', '.join(known)}"
        )
