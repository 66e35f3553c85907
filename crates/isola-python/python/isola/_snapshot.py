"""Snapshots: copies of an interpreter's state, from which sandboxes are restored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from ._bridge import call
from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    from . import _native
    from ._options import RuntimeName


class Snapshot:
    """A copy of an interpreter's state: its imports, globals and generators.

    `Sandbox.snapshot` takes one, and `SandboxTemplate.restore` creates any number
    of sandboxes from it. They share the memory that they do not write.
    """

    def __init__(self, native: _native.Snapshot, streams_ready: bool) -> None:
        self._native = native
        self._streams_ready = streams_ready

    @property
    def runtime(self) -> RuntimeName:
        """The name of the runtime, such as `"python"`."""
        return cast("RuntimeName", self._native.runtime())

    @property
    def memory_size(self) -> int:
        """The size of the interpreter's memory, in bytes."""
        return self._native.memory_size()

    @property
    def resident_size(self) -> int:
        """The memory that the snapshot itself uses, in bytes."""
        return self._native.resident_size()

    async def save(self, path: str | os.PathLike[str]) -> int:
        """Writes the snapshot to a file atomically and returns the file's size.

        The file contains all data of the guest, and only its owner can read it.
        `SandboxTemplate.load_snapshot` reads it again, in this process or
        another.
        """
        checked = path_of(path)
        size: int = await call(lambda loop, done: self._native.save(checked, loop, done))
        return size

    def __repr__(self) -> str:
        return f"<Snapshot {self.runtime}, {self.memory_size >> 20} MiB>"


def path_of(path: object) -> str | os.PathLike[str]:
    """Returns the path, or raises an error if it is not one."""
    if isinstance(path, (str, os.PathLike)):
        return path
    raise InvalidArgumentError(f"path is {path!r}: give a path")
