"""Function pointers: to Python functions, and to a few of the module's own.

There are no native functions, since there are no native libraries.
"""

import sys

from . import _types
from ._memory import find, find_text
from ._types import CArgument, CData, CType_Type, _Info, address_of, get_address, info, put_address

FUNCFLAG_CDECL, FUNCFLAG_HRESULT, FUNCFLAG_PYTHONAPI = 1, 2, 4
FUNCFLAG_USE_ERRNO, FUNCFLAG_USE_LASTERROR = 8, 16

# The addresses of the functions of this module, below all others.
_memmove_addr, _memset_addr, _string_at_addr, _cast_addr = 1, 2, 3, 4
_wstring_at_addr, _memoryview_at_addr = 5, 6


class ArgumentError(Exception):
    """An argument of a function has the wrong type."""

    __module__ = "ctypes"


class PyCFuncPtrType(CType_Type):  # noqa: N801
    __module__ = "_ctypes"

    def __init__(cls, name, bases, namespace, **kwargs):
        super().__init__(name, bases, namespace, **kwargs)
        if not any(isinstance(base, PyCFuncPtrType) for base in bases):
            return
        if not isinstance(getattr(cls, "_flags_", None), int):
            raise TypeError("class must define _flags_ which must be an integer")
        cls._ctypes_info_ = _Info("function", 4, 4, "P")

    def from_param(cls, value, /):
        return None if value is None else super().from_param(value)


class CFuncPtr(CData, metaclass=PyCFuncPtrType):
    """A pointer to a function."""

    __module__ = "_ctypes"

    _argtypes_ = None
    _restype_ = None

    def __new__(cls, *args):
        return super().__new__(cls)

    def __init__(self, target=None, paramflags=None, /):
        self.argtypes = self._argtypes_
        self.restype = self._restype_
        self.errcheck = None
        self._function = None
        if target is None:
            return
        if isinstance(target, tuple):
            raise AttributeError(
                f"function {target[0]!r} not found: a sandbox has no native libraries"
            )
        if isinstance(target, int):
            put_address(self._block, 0, target)
        elif callable(target):
            self._function = target
            put_address(self._block, 0, self._block.address(), None)
            self._block.kept[0] = target
        else:
            raise TypeError("argument must be callable or integer function address")

    def __bool__(self):
        return get_address(self._block, self._position) != 0

    def __call__(self, *args):
        address = get_address(self._block, self._position)
        if not address:
            raise ValueError("attempt to call a NULL function")
        if address in _OWN:
            return _OWN[address](*args)
        function = self._block.kept.get(self._position)
        if isinstance(function, CFuncPtr):
            return function(*args)
        if function is None:
            raise OSError(f"there is no function at {address:#x}: a sandbox has no native code")
        return self._call_python(function, args)

    def _call_python(self, function, args):
        types = self.argtypes or ()
        if len(args) < len(types):
            raise TypeError(f"this function takes at least {len(types)} arguments ({len(args)})")
        converted = [
            self._converted(number, type_, value)
            for number, (type_, value) in enumerate(zip(types, args), 1)
        ]
        result = function(*converted)
        restype = self.restype
        if isinstance(restype, CType_Type):
            made = restype(result) if not isinstance(result, restype) else result
            result = made.value if info(restype).is_converted else made
        elif restype is None:
            result = None
        return result if self.errcheck is None else self.errcheck(result, self, args)

    @staticmethod
    def _converted(number, type_, value):
        try:
            value = type_.from_param(value)
        except Exception as error:
            raise ArgumentError(f"argument {number}: {type(error).__name__}: {error}") from None
        if isinstance(value, CArgument):
            made = type_()
            put_address(made._block, 0, _address(value), value._obj)
            return made
        if not isinstance(value, type_):
            made = type_()
            if value is not None:
                put_address(made._block, 0, _address(value), value)
            value = made
        return value.value if info(type_).is_converted else value


def _address(value):
    """Returns the address in a pointer, or of an object that becomes a pointer."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    if isinstance(value, CArgument):
        return address_of(value._obj) + value._offset
    if isinstance(value, _types.Array):
        return address_of(value)
    if isinstance(value, CData) and (
        info(type(value)).kind != "simple" or info(type(value)).letter in "PzZ"
    ):
        if info(type(value)).kind in ("pointer", "function", "simple"):
            return get_address(value._block, value._position)
    as_parameter = getattr(value, "_as_parameter_", None)
    if as_parameter is not None:
        return _address(as_parameter)
    raise ArgumentError("argument 1: TypeError: wrong type")


def _memmove(target, source, count):
    if isinstance(source, bytes):
        data = source[:count]
        if len(data) < count:
            raise ValueError("the source is too short")
        block, position = find(_address(target), count)
        block.write(position, data)
    elif count:
        from_block, start = find(_address(source), count)
        block, position = find(_address(target), count)
        block.copy(position, from_block, start, count)
    return _address(target)


def _memset(target, value, count):
    address = _address(target)
    if count:
        block, position = find(address, count)
        block.write(position, bytes([value & 255]) * count)
    return address


def _string_at(pointer, size=-1):
    if isinstance(pointer, bytes):
        return pointer.partition(b"\0")[0] if size < 0 else (pointer + b"\0")[:size]
    address = _address(pointer)
    if size < 0:
        return find_text(address, 1)
    if not size:
        return b""
    block, position = find(address, size)
    return block.read(position, size)


def _wstring_at(pointer, size=-1):
    if isinstance(pointer, str):
        return pointer.partition("\0")[0] if size < 0 else pointer[:size]
    address = _address(pointer)
    if size < 0:
        data = find_text(address, 4)
    else:
        block, position = find(address, 4 * size)
        data = block.read(position, 4 * size)
    return data.decode("utf-32-le" if sys.byteorder == "little" else "utf-32-be")


def _memoryview_at(pointer, size, readonly):
    if size < 0:
        raise ValueError("size cannot be negative")
    block, position = find(_address(pointer), size)
    view = block.view[position : position + size]
    return view.toreadonly() if readonly else view


def _cast(_, item, type_):
    found = info(type_)
    if found.kind not in ("pointer", "function") and (found.letter or "i") not in "PzZO":
        raise TypeError(f"cast() argument 2 must be a pointer, not {type_.__name__}")
    kept = item
    if isinstance(item, bytes):
        item = kept = _types.array_type(sys.modules["ctypes"].c_char, len(item) + 1)(
            *(item[index : index + 1] for index in range(len(item)))
        )
    made = type_.__new__(type_)
    if isinstance(made, CFuncPtr):
        made.__init__()
    put_address(made._block, 0, _address(item), kept)
    return made


_OWN = {
    _memmove_addr: _memmove,
    _memset_addr: _memset,
    _string_at_addr: _string_at,
    _cast_addr: _cast,
    _wstring_at_addr: _wstring_at,
    _memoryview_at_addr: _memoryview_at,
}
