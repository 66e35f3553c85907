"""The files of a sandbox."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    from . import _native

FileKind = Literal["file", "directory", "link", "device"]


@dataclass(frozen=True)
class FileStat:
    """The metadata of a file in a sandbox."""

    kind: FileKind
    size: int
    """Its size in bytes; 0 for a directory."""
    mode: int
    """Its permissions, such as `0o644`."""
    modified: float
    """The time of its last change, in seconds since 1970, as in `os.stat`."""


@dataclass(frozen=True)
class FileEntry:
    """An entry of a directory of a sandbox. A symbolic link is not followed."""

    name: str
    kind: FileKind
    size: int
    """Its size in bytes; 0 for a directory."""
    mode: int
    """Its permissions, such as `0o644`."""
    modified: float
    """The time of its last change, in seconds since 1970, as in `os.stat`."""


class Files:
    """The files of a sandbox, as `Sandbox.files`.

    They are in memory, limited by `max_storage`. Relative paths start in the sandbox's
    home, `/root`, where its code starts as well. Symbolic links never lead out of the
    sandbox. Mounted directories are not part of them.

    The operations may be used while the sandbox runs code, and also after a limit or a
    crash has closed it; `Sandbox.close` removes the files. They raise a `FileError`, which
    is an `OSError`: a missing file is also a `FileNotFoundError`.
    """

    def __init__(self, native: _native.Files) -> None:
        self._native = native

    async def read(self, path: str) -> bytes:
        """Returns the content of a file."""
        return self._native.read(_path("path", path))

    async def read_text(self, path: str) -> str:
        """Returns the content of a text file, in UTF-8."""
        return self._native.read(_path("path", path)).decode()

    async def write(self, path: str, content: bytes | bytearray | memoryview | str) -> None:
        """Writes a file: creates it and its missing directories, or replaces its content.

        Text is written in UTF-8. If there is not enough space, the old content is kept.
        """
        if isinstance(content, str):
            content = content.encode()
        elif not isinstance(content, (bytes, bytearray, memoryview)):
            raise InvalidArgumentError(
                f"content is a {type(content).__name__}: give bytes or a string"
            )
        self._native.write(_path("path", path), bytes(content))

    async def list(self, path: str = ".") -> builtins.list[FileEntry]:
        """Returns the entries of a directory, sorted by name."""
        found = self._native.list(_path("path", path))
        return [
            FileEntry(name, cast("FileKind", kind), size, mode, modified)
            for name, (kind, size, mode, modified) in found
        ]

    async def stat(self, path: str) -> FileStat:
        """Returns the metadata of a file. Symbolic links are followed."""
        kind, size, mode, modified = self._native.stat(_path("path", path))
        return FileStat(cast("FileKind", kind), size, mode, modified)

    async def exists(self, path: str) -> bool:
        """Reports whether a file or directory exists."""
        return self._native.exists(_path("path", path))

    async def make_dir(self, path: str) -> None:
        """Creates a directory and its missing parents. Succeeds if it exists."""
        self._native.make_dir(_path("path", path))

    async def remove(self, path: str) -> None:
        """Removes a file, or a directory with everything in it.

        A symbolic link is removed itself.
        """
        self._native.remove(_path("path", path))

    async def rename(self, old: str, new: str) -> None:
        """Moves a file or directory.

        An existing file is replaced, and missing directories are created.
        """
        self._native.rename(_path("old", old), _path("new", new))


def _path(option: str, path: object) -> str:
    if not isinstance(path, str):
        raise InvalidArgumentError(f"{option} is {path!r}: give a path in the sandbox as a string")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"{option} is {path!r}: names in a sandbox are UTF-8, without lone surrogates"
        ) from None
    return path
