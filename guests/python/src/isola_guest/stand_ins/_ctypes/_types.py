"""The types of C data: their sizes, and the conversion of values.

The metaclass of a type records its layout in an `_Info`. An object is a position in a
block of memory.
"""

import struct
import sys
import weakref

from ._memory import Block, allocate, find, find_text

_POINTER_SIZE = struct.calcsize("P")

# Maps the letter of a simple type to the letter of `struct`, if it is a number.
_NUMBERS = {letter: letter for letter in "bBhHiIlLqQfd"}
# A `long double` has the size of a `double` here: `ctypes` then makes them the same type.
_NUMBERS["g"] = "d"
_SIZES = {letter: struct.calcsize(name) for letter, name in _NUMBERS.items()}
# "v" is a truth value of two bytes, which is -1 if it is true.
_SIZES |= {"c": 1, "?": 1, "v": 2, "u": 4, **dict.fromkeys("PzZO", _POINTER_SIZE)}
_POINTERS = "PzZO"

# The letters of types that have a version with the other order of bytes.
_SWAPPABLE = "hHiIlLqQfd"

_OTHER_ORDER = "big" if sys.byteorder == "little" else "little"

_WIDE = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"


class _Info:
    """What is known about a type."""

    def __init__(self, kind, size, align, format="B", shape=(), fields=()):
        self.kind = kind
        self.size = size
        self.align = align
        # The format of the buffer: for views that have one, a letter of `memoryview.cast`.
        self.format = format
        self.shape = shape
        self.has_view = True
        # The names of the fields, with those of the base class.
        self.fields = fields
        # The type of the items of an array.
        self.item = None
        self.pointer_type = None
        # True if the layout cannot change any more.
        self.is_final = False
        # The letter of a simple type, and whether values are converted to Python's own.
        self.letter = None
        self.is_converted = False
        self.is_swapped = False


def info(type_):
    """Returns the information about a type of C data."""
    try:
        found = type_._ctypes_info_
    except AttributeError:
        raise TypeError("this type has no size") from None
    if found is None:
        raise TypeError("abstract class")
    return found


class CType_Type(type):  # noqa: N801  (the name of the real type, as below)
    """The metaclass of all types of C data."""

    __module__ = "_ctypes"
    # None in abstract classes.
    _ctypes_info_ = None

    @property
    def __pointer_type__(cls):
        found = cls._ctypes_info_
        if found is None or found.pointer_type is None:
            raise AttributeError(
                f"type {cls.__name__!r} has no attribute '__pointer_type__'",
                name="__pointer_type__",
                obj=cls,
            )
        return found.pointer_type

    @__pointer_type__.setter
    def __pointer_type__(cls, value):
        info(cls).pointer_type = value

    def __mul__(cls, length):
        return array_type(cls, length)

    __rmul__ = __mul__

    def from_address(cls, address, /):
        size = info(cls).size
        return at(cls, *find(address, size))

    def from_buffer(cls, source, offset=0, /):
        size = info(cls).size
        view = memoryview(source)
        if view.readonly:
            raise TypeError("underlying buffer is not writable")
        if not view.c_contiguous:
            raise TypeError("underlying buffer is not C contiguous")
        _check_size(view.nbytes, offset, size)
        if isinstance(source, CData):
            return at(cls, source._block, source._position + offset, source)
        made = at(cls, Block(view.cast("B")[offset : offset + size]), 0)
        made._source = source
        return made

    def from_buffer_copy(cls, source, offset=0, /):
        size = info(cls).size
        view = memoryview(source)
        _check_size(view.nbytes, offset, size)
        made = cls.__new__(cls)
        made._block.write(0, view.cast("B")[offset : offset + size])
        return made

    def from_param(cls, value, /):
        if isinstance(value, cls):
            return value
        as_parameter = getattr(value, "_as_parameter_", None)
        if as_parameter is not None:
            return cls.from_param(as_parameter)
        raise TypeError(f"expected {cls.__name__} instance instead of {type(value).__name__}")

    def in_dll(cls, library, name, /):
        raise ValueError(f"symbol {name!r} not found: a sandbox has no native libraries")


def _check_size(available, offset, size):
    if offset < 0:
        raise ValueError("offset cannot be negative")
    if available < offset + size:
        raise ValueError(
            f"Buffer size too small ({available} instead of at least {offset + size} bytes)"
        )


def at(cls, block, position, base=None):
    """Returns an object of a type at a position in memory."""
    info(cls).is_final = True
    made = object.__new__(cls)
    made._block, made._position, made._b_base_ = block, position, base
    return made


class CData:
    """An object of C data."""

    __module__ = "_ctypes"
    _b_base_ = None
    # The size in bytes, if it was changed.
    _size = None

    def __new__(cls, *args, **kwargs):
        found = info(cls)
        found.is_final = True
        made = object.__new__(cls)
        made._block, made._position = allocate(found.size), 0
        return made

    @property
    def _b_needsfree_(self):
        return self._b_base_ is None

    @property
    def _objects(self):
        kept = self._block.kept
        found = {f"{place:x}": kept[place] for place in sorted(kept)}
        source = vars(self).get("_source")
        if source is not None:
            found["ffffffff"] = memoryview(source)
        return found or None

    def __buffer__(self, flags):
        found = info(type(self))
        size = self._size or found.size
        view = self._block.view[self._position : self._position + size]
        if found.has_view and size == found.size and size:
            return view.cast(found.format, found.shape)
        return view

    def __ctypes_from_outparam__(self):
        return self

    def __reduce__(self):
        found = info(type(self))
        if found.kind in ("pointer", "function") or (found.letter or "B") in _POINTERS:
            raise ValueError("ctypes objects containing pointers cannot be pickled")
        names = {name: value for name, value in vars(self).items() if name not in _INTERNAL}
        data = self._block.read(self._position, found.size)
        return unpickle, (type(self), (names, data))

    def __setstate__(self, state):
        names, data = state
        self._block.write(self._position, data)
        vars(self).update(names)

    def __hash__(self):
        raise TypeError("unhashable type")


# The name of the real class, which is not exported.
CData.__name__ = CData.__qualname__ = "_CData"

_INTERNAL = ("_block", "_position", "_b_base_", "_source", "_size")


def unpickle(type_, state):
    made = type_.__new__(type_)
    made.__setstate__(state)
    return made


def address_of(item):
    return item._block.address(item._position)


def get(type_, block, position, base):
    """Returns the value at a position: a Python value for simple types."""
    found = info(type_)
    if found.is_converted:
        return _get_simple(found, block, position)
    return at(type_, block, position, base)


def put(type_, block, position, value):
    """Stores a value at a position, converted to a type."""
    found = info(type_)
    if isinstance(value, type_) and (found.letter != "O"):
        block.copy(position, value._block, value._position, found.size)
        if found.letter is None:
            block.kept.setdefault(position, value)
    elif found.kind == "simple":
        _put_simple(found, block, position, value)
    elif found.kind == "pointer":
        _put_pointer(type_, found, block, position, value)
    elif found.kind == "array" and _is_text(found, value):
        at(type_, block, position).value = value
    elif isinstance(value, tuple) and found.kind in ("array", "struct"):
        made = type_(*value)
        block.copy(position, made._block, 0, found.size)
    elif found.kind == "function" and value is None:
        block.write(position, bytes(_POINTER_SIZE))
    else:
        raise TypeError(
            f"incompatible types, {type(value).__name__} instance"
            f" instead of {type_.__name__} instance"
        )


def _is_text(found, value):
    letter = info(found.item).letter
    return (letter == "c" and isinstance(value, bytes)) or (
        letter == "u" and isinstance(value, str)
    )


def put_address(block, position, address, kept=None):
    block.write(position, (address & 0xFFFFFFFF).to_bytes(_POINTER_SIZE, sys.byteorder))
    if kept is not None:
        block.kept[position] = kept


def get_address(block, position):
    return int.from_bytes(block.view[position : position + _POINTER_SIZE], sys.byteorder)


# --- Simple types

_NO_VALUE = object()

# Maps an order of bytes and a letter to a converter. With an order of bytes, the sizes
# of `struct` are fixed ones, and its `l` has four bytes as here.
_STRUCTS = {
    (order, letter): struct.Struct((">" if order == "big" else "<") + name)
    for order in ("big", "little")
    for letter, name in _NUMBERS.items()
}


def _order(found):
    return _OTHER_ORDER if found.is_swapped else sys.byteorder


def _get_simple(found, block, position):
    letter = found.letter
    data = block.view[position : position + found.size]
    if letter in _NUMBERS:
        return _STRUCTS[_order(found), letter].unpack(data)[0]
    if letter == "c":
        return bytes(data)
    if letter in "?v":
        return any(data)
    if letter == "u":
        return bytes(data).decode(_WIDE)
    address = get_address(block, position)
    if letter == "O":
        try:
            return block.kept[position]
        except KeyError:
            raise ValueError("PyObject is NULL") from None
    if not address:
        return None
    if letter == "z":
        return find_text(address, 1)
    if letter == "Z":
        return find_text(address, 4).decode(_WIDE)
    return address


def _put_simple(found, block, position, value):
    letter = found.letter
    if letter in "fdg":
        if not hasattr(type(value), "__float__") and not hasattr(type(value), "__index__"):
            raise TypeError(f"must be real number, not {type(value).__name__}")
        block.write(position, _STRUCTS[_order(found), letter].pack(float(value)))
    elif letter in _NUMBERS:
        if not hasattr(type(value), "__index__"):
            raise TypeError(f"an integer is required (got type {type(value).__name__})")
        number = value.__index__() & ((1 << 8 * found.size) - 1)
        block.write(position, number.to_bytes(found.size, _order(found)))
    elif letter == "?":
        block.write(position, bytes([bool(value)]))
    elif letter == "v":
        block.write(position, b"\xff\xff" if value else b"\0\0")
    elif letter == "c":
        block.write(position, _one_char(value))
    elif letter == "u":
        if not isinstance(value, str):
            raise TypeError(
                f"a unicode character expected instead of a {type(value).__name__} instance"
            )
        if len(value) != 1:
            raise TypeError(f"a one character unicode string is expected, got {len(value)}")
        block.write(position, value.encode(_WIDE, "surrogatepass"))
    elif letter == "O":
        put_address(block, position, id(value))
        block.kept[position] = value
    else:
        _put_text(letter, block, position, value)


def _one_char(value):
    if isinstance(value, (bytes, bytearray)):
        if len(value) != 1:
            raise TypeError(
                f"one character bytes, bytearray, or an integer in range(256) expected,"
                f" not a {type(value).__name__} object of length {len(value)}"
            )
        return bytes(value)
    if isinstance(value, int) and 0 <= value < 256:
        return bytes([value])
    raise TypeError(
        "one character bytes, bytearray, or an integer in range(256) expected,"
        f" not {type(value).__name__}"
    )


def _put_text(letter, block, position, value):
    """Stores a pointer: to text, to something by its address, or to nothing."""
    if value is None:
        put_address(block, position, 0)
    elif isinstance(value, int):
        put_address(block, position, value)
    elif letter == "z" and isinstance(value, bytes):
        text = Block(bytearray(value + b"\0"))
        put_address(block, position, text.address(), text)
    elif letter == "Z" and isinstance(value, str):
        text = Block(bytearray((value + "\0").encode(_WIDE, "surrogatepass")))
        put_address(block, position, text.address(), text)
    elif letter == "P":
        raise TypeError("cannot be converted to pointer")
    else:
        expected = "bytes" if letter == "z" else "unicode string"
        raise TypeError(
            f"{expected} or integer address expected instead of {type(value).__name__} instance"
        )


class PyCSimpleType(CType_Type):  # noqa: N801
    __module__ = "_ctypes"

    def __init__(cls, name, bases, namespace, **kwargs):
        super().__init__(name, bases, namespace, **kwargs)
        if not any(isinstance(base, PyCSimpleType) for base in bases):
            return
        letter = getattr(cls, "_type_", None)
        if letter is None:
            raise AttributeError("class must define a '_type_' attribute")
        if not isinstance(letter, str):
            raise TypeError("class must define a '_type_' string attribute")
        if len(letter) != 1:
            raise ValueError(
                "class must define a '_type_' attribute which must be a string of length 1"
            )
        if letter not in _SIZES:
            raise AttributeError(
                "class must define a '_type_' attribute which must be\na single character"
                f" string containing one of {''.join(sorted(_SIZES))!r}."
            )
        size = _SIZES[letter]
        is_direct = cls.__base__ is _SimpleCData
        found = _Info("simple", size, size, _NUMBERS.get(letter, letter))
        if found.format not in "bBhHiIlLqQfd?cP":
            found.format = {"u": "I", "v": "h"}.get(letter, "P")
        found.letter = letter
        found.is_converted = is_direct
        found.is_swapped = bool(namespace.get("_swappedbytes_")) or getattr(
            getattr(cls.__base__, "_ctypes_info_", None), "is_swapped", False
        )
        cls._ctypes_info_ = found
        found.has_view = not found.is_swapped
        if is_direct and letter in _SWAPPABLE and not found.is_swapped:
            cls._add_swapped(name, namespace)

    def _add_swapped(cls, name, namespace):
        swapped = PyCSimpleType(
            name,
            (_SimpleCData,),
            {"_type_": cls._type_, "_swappedbytes_": True, "__module__": cls.__module__},
        )
        ordered = ("__ctype_le__", "__ctype_be__")
        own, other = ordered if sys.byteorder == "little" else ordered[::-1]
        for type_ in (cls, swapped):
            setattr(type_, own, cls)
            setattr(type_, other, swapped)

    def from_param(cls, value, /):
        if isinstance(value, cls):
            return value
        letter = info(cls).letter
        if letter in "zZP" and _is_pointer_like(letter, value):
            return value
        try:
            return cls(value)
        except TypeError:
            as_parameter = getattr(value, "_as_parameter_", None)
            if as_parameter is None:
                raise TypeError("wrong type") from None
            return cls.from_param(as_parameter)


def _is_pointer_like(letter, value):
    if value is None or isinstance(value, CArgument):
        return True
    if isinstance(value, CData) and info(type(value)).kind in ("array", "pointer", "function"):
        return True
    if letter == "P":
        return isinstance(value, (int, bytes, str)) or (
            isinstance(value, _SimpleCData) and info(type(value)).letter in "zZP"
        )
    return False


class _SimpleCData(CData, metaclass=PyCSimpleType):
    __module__ = "_ctypes"

    def __init__(self, value=_NO_VALUE, /):
        if value is not _NO_VALUE:
            self.value = value

    def __new__(cls, value=_NO_VALUE, /):
        return super().__new__(cls)

    @property
    def value(self):
        return _get_simple(info(type(self)), self._block, self._position)

    @value.setter
    def value(self, value):
        _put_simple(info(type(self)), self._block, self._position, value)

    @value.deleter
    def value(self):
        raise TypeError("can't delete attribute")

    def __bool__(self):
        found = info(type(self))
        if found.letter in "fdg":
            return bool(self.value)
        return any(self._block.view[self._position : self._position + found.size])

    def __repr__(self):
        if type(self).__base__ is not _SimpleCData:
            return f"<{type(self).__name__} object at {id(self):#x}>"
        return f"{type(self).__name__}({self.value!r})"

    def __ctypes_from_outparam__(self):
        return self.value if info(type(self)).is_converted else self


# --- Arrays

_array_types = weakref.WeakValueDictionary()


def array_type(item, length):
    """Returns the type of arrays of a type."""
    if not hasattr(type(length), "__index__"):
        raise TypeError(f"can't multiply sequence by non-int of type {type(length).__name__!r}")
    length = length.__index__()
    if length < 0:
        raise ValueError(f"Array length must be >= 0, not {length}")
    if length * info(item).size > 0x7FFFFFFF:
        raise OverflowError("array too large")
    key = item, length
    found = _array_types.get(key)
    if found is None:
        names = {"_type_": item, "_length_": length, "__module__": item.__module__}
        found = _array_types[key] = PyCArrayType(f"{item.__name__}_Array_{length}", (Array,), names)
    return found


class PyCArrayType(CType_Type):  # noqa: N801
    __module__ = "_ctypes"

    def __init__(cls, name, bases, namespace, **kwargs):
        super().__init__(name, bases, namespace, **kwargs)
        if not any(isinstance(base, PyCArrayType) for base in bases):
            return
        for attribute in ("_length_", "_type_"):
            if not hasattr(cls, attribute):
                raise AttributeError(f"class must define a '{attribute}' attribute")
        length = cls._length_
        if not isinstance(length, int):
            raise TypeError("The '_length_' attribute must be an integer")
        if length < 0:
            raise ValueError("The '_length_' attribute must not be negative")
        item = info(cls._type_)
        if length * item.size > 0x7FFFFFFF:
            raise OverflowError("The '_length_' attribute is too large")
        item.is_final = True
        own = cls._ctypes_info_ = _Info(
            "array", length * item.size, item.align, item.format, (length, *item.shape)
        )
        own.item = cls._type_
        own.has_view = item.has_view

    def from_param(cls, value, /):
        if isinstance(value, cls):
            return value
        if _is_text(info(cls), value):
            made = cls()
            made.value = value
            return made
        if isinstance(value, tuple):
            return cls(*value)
        return super().from_param(value)


class Array(CData, metaclass=PyCArrayType):
    __module__ = "_ctypes"

    def __init__(self, *items):
        if len(items) > self._length_:
            raise IndexError("invalid index")
        for number, item in enumerate(items):
            self[number] = item

    def __len__(self):
        return self._length_

    def _place(self, index):
        index = index.__index__()
        length = self._length_
        if index < 0:
            index += length
        if not 0 <= index < length:
            raise IndexError("invalid index")
        return self._position + index * info(self._type_).size

    def __getitem__(self, key):
        if isinstance(key, slice):
            items = [self[index] for index in range(*key.indices(self._length_))]
            return _joined(info(self._type_).letter, items)
        if not hasattr(type(key), "__index__"):
            raise TypeError("indices must be integers")
        return get(self._type_, self._block, self._place(key), self)

    def __setitem__(self, key, value):
        if isinstance(key, slice):
            places = range(*key.indices(self._length_))
            if len(places) != len(value):
                raise ValueError("Can only assign sequence of same size")
            for index, item in zip(places, value):
                self[index] = item
            return
        if not hasattr(type(key), "__index__"):
            raise TypeError("indices must be integer")
        put(self._type_, self._block, self._place(key), value)

    def __delitem__(self, key):
        raise TypeError("Array does not support item deletion")

    def __getattr__(self, name):
        # Only arrays of characters have these.
        if name in ("value", "raw"):
            letter = info(self._type_).letter
            data = self._block.read(self._position, info(type(self)).size)
            if letter == "c":
                return data if name == "raw" else data.partition(b"\0")[0]
            if letter == "u" and name == "value":
                return data.decode(_WIDE, "surrogatepass").partition("\0")[0]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name, value):
        letter = info(self._type_).letter if name in ("value", "raw") else None
        if letter == "c" and name == "raw":
            data = bytes(value)
            if len(data) > self._length_:
                raise ValueError("byte string too long")
            self._block.write(self._position, data)
        elif letter == "c":
            if not isinstance(value, bytes):
                raise TypeError(f"bytes expected instead of {type(value).__name__} instance")
            self._put_text(value, b"\0")
        elif letter == "u" and name == "value":
            if not isinstance(value, str):
                raise TypeError(f"unicode string expected instead of {type(value).__name__}")
            self._put_text(value, "\0")
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name):
        if name in ("value", "raw") and info(self._type_).letter in ("c", "u"):
            error = AttributeError if name == "raw" else TypeError
            raise error("cannot delete attribute")
        super().__delattr__(name)

    def _put_text(self, text, end):
        if len(text) > self._length_:
            raise ValueError("byte string too long" if end == b"\0" else "string too long")
        if len(text) < self._length_:
            text += end
        data = text if isinstance(text, bytes) else text.encode(_WIDE, "surrogatepass")
        self._block.write(self._position, data)

    __class_getitem__ = classmethod(type(list[int]))


def _joined(letter, items):
    if letter == "c":
        return b"".join(items)
    return "".join(items) if letter == "u" else items


# --- Pointers


class PyCPointerType(CType_Type):  # noqa: N801
    __module__ = "_ctypes"

    def __init__(cls, name, bases, namespace, **kwargs):
        super().__init__(name, bases, namespace, **kwargs)
        if not any(isinstance(base, PyCPointerType) for base in bases):
            return
        cls._ctypes_info_ = _Info("pointer", _POINTER_SIZE, _POINTER_SIZE, "P")
        target = namespace.get("_type_")
        if target is not None:
            cls.set_type(target)

    def set_type(cls, type_, /):
        if not isinstance(type_, CType_Type):
            raise TypeError("_type_ must have storage info")
        cls._type_ = type_
        own = vars(type_).get("_ctypes_info_")
        if own is not None and own.pointer_type is None:
            own.pointer_type = cls

    def from_param(cls, value, /):
        if value is None or isinstance(value, (cls, CArgument)):
            return value
        target = getattr(cls, "_type_", None)
        if target is not None and isinstance(value, target):
            return CArgument(value, 0)
        if isinstance(value, (_Pointer, Array)) and issubclass(_target(value), target):
            return value
        return super().from_param(value)


def _target(value):
    return value._type_


class _Pointer(CData, metaclass=PyCPointerType):
    __module__ = "_ctypes"

    def __new__(cls, *args):
        if getattr(cls, "_type_", None) is None:
            raise TypeError("Cannot create instance: has no _type_")
        return super().__new__(cls)

    def __init__(self, target=None, /):
        if target is not None:
            self.contents = target

    @property
    def contents(self):
        address = get_address(self._block, self._position)
        if not address:
            raise ValueError("NULL pointer access")
        kept = self._block.kept.get(self._position)
        if type(kept) is self._type_ and address_of(kept) == address:
            return kept
        return at(self._type_, *find(address, info(self._type_).size), self)

    @contents.setter
    def contents(self, target):
        if not isinstance(target, self._type_):
            raise TypeError(f"expected {self._type_.__name__} instead of {type(target).__name__}")
        put_address(self._block, self._position, address_of(target), target)

    @contents.deleter
    def contents(self):
        raise TypeError("Pointer does not support item deletion")

    def _find(self, index):
        address = get_address(self._block, self._position)
        if not address:
            raise ValueError("NULL pointer access")
        size = info(self._type_).size
        return find(address + index * size, size)

    def __getitem__(self, key):
        if not isinstance(key, slice):
            if not hasattr(type(key), "__index__"):
                raise TypeError("Pointer indices must be integer")
            return get(self._type_, *self._find(key.__index__()), self)
        step = 1 if key.step is None else key.step
        if step == 0:
            raise ValueError("slice step cannot be zero")
        if key.start is None and step < 0:
            raise ValueError("slice start is required for step < 0")
        if key.stop is None:
            raise ValueError("slice stop is required")
        items = [self[index] for index in range(key.start or 0, key.stop, step)]
        return _joined(info(self._type_).letter, items)

    def __setitem__(self, key, value):
        if not hasattr(type(key), "__index__"):
            raise TypeError("Pointer indices must be integer")
        put(self._type_, *self._find(key.__index__()), value)

    def __bool__(self):
        return get_address(self._block, self._position) != 0

    __class_getitem__ = classmethod(type(list[int]))


def _put_pointer(type_, found, block, position, value):
    target = type_._type_
    if value is None:
        put_address(block, position, 0)
    elif isinstance(value, Array) and issubclass(value._type_, target):
        put_address(block, position, address_of(value), value)
    elif isinstance(value, target):
        put_address(block, position, address_of(value), value)
    else:
        raise TypeError(
            f"incompatible types, {type(value).__name__} instance"
            f" instead of {type_.__name__} instance"
        )


class CArgument:
    """A reference to an object, as an argument of a function."""

    __module__ = "_ctypes"

    def __init__(self, item, offset):
        self._obj = item
        self._offset = offset

    def __repr__(self):
        return f"<cparam 'P' ({address_of(self._obj) + self._offset:#x})>"
