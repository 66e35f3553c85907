"""The users of the sandbox: one, who owns every file.

`os.stat` says that each file belongs to user 0, whose name is `root` everywhere. Its
home directory is the one in which scripts start.
"""

from collections import namedtuple
from operator import index as _index


class struct_passwd(  # noqa: N801  (the name of the real type)
    namedtuple("struct_passwd", "pw_name pw_passwd pw_uid pw_gid pw_gecos pw_dir pw_shell")
):
    __slots__ = ()
    __module__ = "pwd"

    def __new__(cls, sequence):
        return super().__new__(cls, *sequence)

    def __getnewargs__(self):
        return (tuple(self),)

    def __repr__(self):
        return f"pwd.{super().__repr__()}"


_USER = struct_passwd(("root", "x", 0, 0, "root", "/root", "/bin/sh"))


def getpwuid(uid, /):
    """Returns the entry of a user, by its number."""
    if _index(uid) != _USER.pw_uid:
        raise KeyError(f"getpwuid(): uid not found: {uid}")
    return _USER


def getpwnam(name, /):
    """Returns the entry of a user, by its name."""
    if not isinstance(name, str):
        raise TypeError(f"getpwnam() argument must be str, not {type(name).__name__}")
    if b"\0" in name.encode():
        raise ValueError("embedded null byte")
    if name != _USER.pw_name:
        raise KeyError(f"getpwnam(): name not found: {name!r}")
    return _USER


def getpwall():
    """Returns the entries of all users."""
    return [_USER]
