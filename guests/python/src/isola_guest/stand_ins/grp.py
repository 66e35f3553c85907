"""The groups of the sandbox: one, to which its user and every file belong. See `pwd`."""

from collections import namedtuple
from operator import index as _index


class struct_group(  # noqa: N801  (the name of the real type)
    namedtuple("struct_group", "gr_name gr_passwd gr_gid gr_mem")
):
    __slots__ = ()
    __module__ = "grp"

    def __new__(cls, sequence):
        return super().__new__(cls, *sequence)

    def __getnewargs__(self):
        return (tuple(self),)

    def __repr__(self):
        return f"grp.{super().__repr__()}"


def _group():
    # Callers may modify the list of members.
    return struct_group(("root", "x", 0, []))


def getgrgid(id):
    """Returns the entry of a group, by its number."""
    if not -(1 << 31) <= _index(id) < 1 << 32:
        raise OverflowError("gid is out of range")
    if id != 0:
        raise KeyError(f"getgrgid(): gid not found: {id}")
    return _group()


def getgrnam(name):
    """Returns the entry of a group, by its name."""
    if not isinstance(name, str):
        raise TypeError(f"getgrnam() argument must be str, not {type(name).__name__}")
    if b"\0" in name.encode():
        raise ValueError("embedded null byte")
    if name != "root":
        raise KeyError(f"getgrnam(): name not found: {name!r}")
    return _group()


def getgrall():
    """Returns the entries of all groups."""
    return [_group()]
