"""A replacement for libffi, which this interpreter was built without.

The types of C data work: numbers of a fixed size, structures, arrays and pointers to
them. There are no native libraries, so loading one fails as for a library that does not
exist.
"""

import os as _os

from ._memory import allocate as _allocate
from ._functions import (  # noqa: F401
    FUNCFLAG_CDECL,
    FUNCFLAG_HRESULT,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    FUNCFLAG_USE_LASTERROR,
    ArgumentError,
    CFuncPtr,
    _cast_addr,
    _memmove_addr,
    _memoryview_at_addr,
    _memset_addr,
    _string_at_addr,
    _wstring_at_addr,
)
from ._structures import CField, Structure, Union  # noqa: F401
from ._types import (  # noqa: F401
    Array,
    CArgument,
    CData as _CData,
    CType_Type,
    _Pointer,
    _SimpleCData,
    address_of as _address_of,
    info as _info,
    unpickle as _unpickle,
)

__version__ = "1.1.0"

RTLD_LOCAL, RTLD_GLOBAL = _os.RTLD_LOCAL, _os.RTLD_GLOBAL
SIZEOF_TIME_T = 8

# The value that `set_errno` set last. No native function changes it.
_errno = 0


def sizeof(obj_or_type, /):
    """Returns the size of a type or object in bytes."""
    if isinstance(obj_or_type, CType_Type):
        return _info(obj_or_type).size
    if not isinstance(obj_or_type, _CData):
        raise TypeError("this type has no size")
    return obj_or_type._size or _info(type(obj_or_type)).size


def alignment(obj_or_type, /):
    """Returns the alignment of a type or object in bytes."""
    if isinstance(obj_or_type, CType_Type):
        return _info(obj_or_type).align
    if not isinstance(obj_or_type, _CData):
        raise TypeError("no alignment info")
    return _info(type(obj_or_type)).align


def addressof(obj, /):
    """Returns the address of an object."""
    if not isinstance(obj, _CData):
        raise TypeError("invalid type")
    return _address_of(obj)


def byref(obj, offset=0, /):
    """Returns a reference to an object, to be used as an argument only."""
    if not isinstance(obj, _CData):
        raise TypeError(f"byref() argument must be a ctypes instance, not {type(obj).__name__!r}")
    return CArgument(obj, offset)


def resize(obj, size, /):
    """Changes the size of an object's memory."""
    if not isinstance(obj, _CData):
        raise TypeError("expected ctypes instance")
    if size < _info(type(obj)).size:
        raise ValueError(f"minimum size is {_info(type(obj)).size}")
    if obj._b_base_ is not None:
        raise ValueError("Memory cannot be resized because this object doesn't own it")
    block = _allocate(size)
    block.copy(0, obj._block, 0, min(size, len(obj._block.view)))
    obj._block, obj._position, obj._size = block, 0, size


def buffer_info(type, /):
    """Returns the format, the number of dimensions and the shape of a type's buffer."""
    found = _info(type)
    return found.format, len(found.shape), found.shape


def get_errno():
    return _errno


def set_errno(value, /):
    global _errno
    if not isinstance(value, int):
        raise TypeError(f"an integer is required (got type {type(value).__name__})")
    before, _errno = _errno, value
    return before


def dlopen(name, flag=RTLD_LOCAL, /):
    """Refuses to load a library. The interpreter itself can be opened, and has no symbols."""
    if name is None:
        return 0
    raise OSError(f"{_os.fsdecode(name)}: a sandbox cannot load native libraries")


def dlsym(handle, name, /):
    raise OSError(f"undefined symbol {name!r}: a sandbox has no native libraries")


def dlclose(handle, /):
    raise OSError("a sandbox has no native libraries")
