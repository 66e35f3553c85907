"""Structures and unions."""

from ._types import CData, CType_Type, _Info, at, get, info, put


class CField:
    """A field of a structure: where it is, and how it is read and written."""

    __module__ = "_ctypes"

    def __init__(
        self,
        *,
        name,
        type,
        byte_size,
        byte_offset,
        index,
        _internal_use,
        bit_size=None,
        bit_offset=None,
    ):
        if not _internal_use:
            raise TypeError("CField cannot be created")
        if not isinstance(name, str):
            raise TypeError(f"field {name!r}: name must be a string, not bytes")
        self.name = name
        self.type = type
        self.byte_size = byte_size
        self.offset = self.byte_offset = byte_offset
        self.index = index
        self.is_bitfield = bit_size is not None
        self.is_anonymous = False
        self.bit_size = bit_size if self.is_bitfield else byte_size * 8
        self.bit_offset = bit_offset or 0
        # Arrays of characters are converted to text, but not in arrays and pointers.
        found = info(type)
        self._is_text = found.kind == "array" and info(found.item).letter in ("c", "u")
        if self.is_bitfield and not _is_integer(type):
            raise TypeError(f"bit fields not allowed for type {type.__name__}")

    @property
    def size(self):
        return self.bit_size << 16 | self.bit_offset if self.is_bitfield else self.byte_size

    def moved(self, distance, index):
        """Returns the field of a structure that is a field without a name of its own."""
        return CField(
            name=self.name,
            type=self.type,
            byte_size=self.byte_size,
            byte_offset=self.byte_offset + distance,
            bit_size=self.bit_size if self.is_bitfield else None,
            bit_offset=self.bit_offset,
            index=index,
            _internal_use=True,
        )

    def __get__(self, item, owner=None):
        if item is None:
            return self
        position = self._position(item)
        if self._is_text:
            return at(self.type, item._block, position, item).value
        if not self.is_bitfield:
            return get(self.type, item._block, position, item)
        value = self._bits(item, position) >> self.bit_offset & (1 << self.bit_size) - 1
        found = info(self.type)
        if found.letter == "?":
            return value != 0
        if found.letter in "bhilq" and value >> self.bit_size - 1:
            value -= 1 << self.bit_size
        return value

    def __set__(self, item, value):
        position = self._position(item)
        if self._is_text and isinstance(value, bytes):
            value = value.partition(b"\0")[0]
        if not self.is_bitfield:
            put(self.type, item._block, position, value)
            return
        if info(self.type).letter == "?":
            value = bool(value)
        if not hasattr(type(value), "__index__"):
            raise TypeError(f"an integer is required (got type {type(value).__name__})")
        mask = (1 << self.bit_size) - 1 << self.bit_offset
        rest = self._bits(item, position) & ~mask
        bits = rest | value.__index__() << self.bit_offset & mask
        item._block.write(position, bits.to_bytes(self.byte_size, self._order()))

    def _position(self, item):
        if not isinstance(item, CData):
            raise TypeError("not a ctype instance")
        return item._position + self.byte_offset

    def __delete__(self, item):
        raise TypeError("can't delete attribute")

    def _order(self):
        return "big" if info(self.type).is_swapped else "little"

    def _bits(self, item, position):
        data = item._block.read(position, self.byte_size)
        return int.from_bytes(data, self._order())

    def __repr__(self):
        if self.is_bitfield:
            rest = f"bit_size={self.bit_size}, bit_offset={self.bit_offset}"
        else:
            rest = f"ofs={self.byte_offset}, size={self.byte_size}"
        return f"<ctypes.CField {self.name!r} type={self.type.__name__}, {rest}>"


def _is_integer(type_):
    found = info(type_)
    return found.kind == "simple" and found.letter in "bBhHiIlLqQ?"


class _Aggregate(CType_Type):
    """The metaclass of structures and unions."""

    def __init__(cls, name, bases, namespace, **kwargs):
        super().__init__(name, bases, namespace, **kwargs)
        if not any(isinstance(base, _Aggregate) for base in bases):
            return
        if getattr(cls, "_abstract_", False):
            return
        base = getattr(cls.__base__, "_ctypes_info_", None)
        if base is not None:
            base.is_final = True
        if base is None:
            own = _Info("struct", 0, 1)
        else:
            own = _Info("struct", base.size, base.align, base.format, fields=base.fields)
        own.has_view = False
        cls._ctypes_info_ = own
        if "_fields_" in namespace:
            # The metaclass of structures with the other order of bytes changes the types.
            cls._fields_ = namespace["_fields_"]

    def __setattr__(cls, name, value):
        if name == "_fields_" and cls._ctypes_info_ is not None:
            if cls._ctypes_info_.is_final:
                raise AttributeError("_fields_ is final")
            super().__setattr__(name, value)
            cls._lay_out(value)
            return
        super().__setattr__(name, value)

    def __delattr__(cls, name):
        if name == "_fields_":
            raise AttributeError("_fields_ is final")
        super().__delattr__(name)

    def _lay_out(cls, fields):
        # Not before, since it imports this module.
        from ctypes._layout import get_layout

        found = cls._ctypes_info_
        is_struct = isinstance(cls, PyCStructType)
        base = cls.__base__
        if getattr(base, "_ctypes_info_", None) is None:
            base = None
        try:
            fields = tuple(fields)
        except TypeError:
            raise TypeError("_fields_ must be a sequence of pairs") from None
        for field in fields:
            if isinstance(field, tuple) and len(field) > 1 and field[1] is cls:
                # Its size is not known yet.
                found.is_final = True
                raise AttributeError("Structure or union cannot contain itself")
        layout = get_layout(cls, fields, is_struct, base)
        names = []
        made = list(layout.fields)
        for field in made:
            info(field.type).is_final = True
            type.__setattr__(cls, field.name, field)
            names.append(field.name)
        inherited = info(base).fields if base else ()
        found.size, found.align, found.format = layout.size, layout.align, layout.format_spec
        found.fields = (*inherited, *names)
        found.is_final = True
        cls._add_anonymous(made)

    def _add_anonymous(cls, fields):
        names = vars(cls).get("_anonymous_", ())
        if isinstance(names, str):
            raise TypeError("_anonymous_ must be a sequence of field names")
        for name in names:
            field = vars(cls).get(name)
            if field is None:
                raise AttributeError(name)
            if not isinstance(field, CField) or field not in fields:
                raise AttributeError(f"{name!r} is specified in _anonymous_ but not in _fields_")
            field.is_anonymous = True
            for inner in _all_fields(field.type):
                if inner.is_anonymous:
                    # Its fields are among these, too.
                    continue
                type.__setattr__(cls, inner.name, inner.moved(field.byte_offset, field.index))


def _all_fields(type_):
    """Returns the fields of a type, with those that it has from unnamed ones."""
    found = {}
    for base in reversed(type_.__mro__):
        found |= {key: one for key, one in vars(base).items() if isinstance(one, CField)}
    return found.values()


class PyCStructType(_Aggregate):
    __module__ = "_ctypes"


class UnionType(_Aggregate):
    __module__ = "_ctypes"


def _init(self, *args, **kwargs):
    names = info(type(self)).fields
    if len(args) > len(names):
        raise TypeError("too many initializers")
    for name, value in zip(names, args):
        if name in kwargs:
            raise TypeError(f"duplicate values for field {name!r}")
        setattr(self, name, value)
    for name, value in kwargs.items():
        setattr(self, name, value)


class Structure(CData, metaclass=PyCStructType):
    __module__ = "_ctypes"
    __init__ = _init


class Union(CData, metaclass=UnionType):
    __module__ = "_ctypes"
    __init__ = _init
