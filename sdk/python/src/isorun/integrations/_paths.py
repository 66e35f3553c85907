"""Questions about files of a sandbox that only its own shell can answer, without any I/O.

The file API of the server acts as root, and says `file_error` for a directory, a device and a
missing parent alike. Frameworks distinguish them, and expect the permissions of the user who
runs the commands. The scripts here run as that user, and use nothing but `/bin/sh`.
"""

from __future__ import annotations

import errno
import os
import shlex
from dataclasses import dataclass

# Prints what the path `$p` is, and what the user may do with it.
_PROBE = r"""if [ -d "$p" ]; then kind=directory
elif [ -f "$p" ]; then kind=file
elif [ -e "$p" ]; then kind=special
else
  kind=missing
  d=$p
  while d=${d%/*}; [ ! -d "$d/" ]; do
    if [ -e "$d" ]; then kind=blocked; break; fi
  done
  [ "$kind" = blocked ] || [ -x "$d/" ] || kind=hidden
  p=$d/
fi
r=-; w=-
[ ! -r "$p" ] || r=r
[ ! -w "$p" ] || w=w
echo "$kind $r$w"
"""


@dataclass(frozen=True)
class PathState:
    """What a path in a sandbox is, for the user who runs commands."""

    kind: str
    """`file`, `directory`, `special` (a device, pipe or socket), `missing`, `blocked` (a part of
    the path is not a directory) or `hidden` (a directory above it may not be searched)."""
    is_readable: bool
    is_writable: bool
    """Of a missing file: whether the nearest directory above it that exists is writable."""

    def read_error(self, path: str) -> OSError | None:
        """Returns the reason for which the file cannot be read."""
        if self.kind == "file":
            return None if self.is_readable else os_error(errno.EACCES, path)
        return self._error(path)

    def write_error(self, path: str) -> OSError | None:
        """Returns the reason for which the file cannot be written."""
        if self.kind in ("file", "missing"):
            return None if self.is_writable else os_error(errno.EACCES, path)
        return self._error(path)

    def _error(self, path: str) -> OSError:
        if self.kind == "special":
            return OSError(errno.EINVAL, "Not a regular file", path)
        codes = {
            "directory": errno.EISDIR,
            "missing": errno.ENOENT,
            "blocked": errno.ENOTDIR,
            "hidden": errno.EACCES,
        }
        return os_error(codes.get(self.kind, errno.EIO), path)


def probe_command(path: str) -> str:
    """Returns the shell command whose output `parse_probe` reads."""
    return assign("p", path) + _PROBE


def parse_probe(output: str) -> PathState:
    """Returns what the output of a probe says.

    :raises ValueError: the output is not that of a probe.
    """
    kind, _, access = output.strip().partition(" ")
    if len(access) != 2 or not kind:
        raise ValueError(f"the shell of the sandbox printed {output[:200]!r} about a path")
    return PathState(kind, access[0] == "r", access[1] == "w")


def os_error(number: int, path: str) -> OSError:
    """Returns the exception of Python for an error number, such as `FileNotFoundError`."""
    return OSError(number, os.strerror(number), path)


def assign(name: str, path: str) -> str:
    """Returns the lines of a shell script that set a variable to a path.

    Names that are not UTF-8 have the form that `os.listdir` returns, which JSON cannot
    transport: their bytes are written as octal numbers.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        octal = "".join(f"\\{byte:03o}" for byte in path.encode("utf-8", "surrogateescape"))
        # A substitution removes newlines at its end.
        return f"{name}=$(printf '{octal}.')\n{name}=${{{name}%.}}\n"
    return f"{name}={shlex.quote(path)}\n"
