"""The options of templates and sandboxes, checked."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Literal

from ._errors import InvalidArgumentError

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


def memory(max_memory: object) -> int | None:
    """A memory limit, or none."""
    if max_memory is None:
        return None
    if isinstance(max_memory, bool) or not isinstance(max_memory, int) or max_memory <= 0:
        raise InvalidArgumentError(
            f"max_memory is {max_memory!r}: give a number of bytes above 0"
        )
    return max_memory


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
