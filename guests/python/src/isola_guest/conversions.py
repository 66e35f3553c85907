"""Values that JSON does not have: those that are sent all the same, and how to convert others.

NumPy's scalars and arrays are sent, since JSON has numbers and lists. Everything else is
refused, with an expression that converts it: what such a value becomes is the choice of
the code that sends it. Classes of packages are recognised by their names, so that no
package is imported for that.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import datetime
import decimal
import enum
import fractions
import inspect
import pathlib
import uuid
from collections.abc import Iterable, Mapping

# The kinds of NumPy's types (`dtype.kind`) whose elements become numbers and text: not
# dates, durations, complex numbers and records. Objects are looked at one by one.
_NUMPY_KINDS = "biufSUO"

# The least number of characters that an element of an array takes in JSON.
_MIN_ELEMENT_CHARS = 2

# How a value of each type is converted, the first match counts. `x` stands for the value.
_STANDARD = (
    (datetime.timedelta, "x.total_seconds()"),
    ((datetime.date, datetime.time), "x.isoformat()"),
    (decimal.Decimal, "float(x) or str(x)"),
    (fractions.Fraction, "float(x) or str(x)"),
    (uuid.UUID, "str(x)"),
    (pathlib.PurePath, "str(x)"),
    (complex, "[x.real, x.imag]"),
    ((bytes, bytearray), "x.decode() for text, or base64.b64encode(x).decode()"),
    (memoryview, "x.tolist() or base64.b64encode(x).decode()"),
    ((set, frozenset), "sorted(x) or list(x)"),
    (enum.Enum, "x.value or x.name"),
)

# The same for classes of packages: the package, the class, and the conversion.
_PACKAGED = (
    ("pandas", "NaTType", "None in its place"),
    ("pandas", "NAType", "None in its place"),
    ("pandas", "DataFrame", 'x.to_dict("records")'),
    ("pandas", "Series", "x.to_list() or x.to_dict()"),
    ("pandas", "Index", "x.to_list()"),
    ("pandas", "Interval", "[x.left, x.right]"),
    ("pandas", "Period", "str(x)"),
    ("pandas", "ExtensionArray", "x.tolist()"),
    ("pydantic", "BaseModel", 'x.model_dump(mode="json")'),
    ("numpy", "datetime64", "str(x)"),
    ("numpy", "timedelta64", "x.astype(float) or str(x)"),
    ("numpy", "longdouble", "float(x)"),
    ("numpy", "complexfloating", "[float(x.real), float(x.imag)]"),
    ("numpy", "void", "x.tolist()"),
)

# Classes whose objects are one value, although they can be iterated over.
_WHOLE = {
    ("numpy", "generic"),
    ("numpy", "ndarray"),
    ("pandas", "DataFrame"),
    ("pandas", "ExtensionArray"),
    ("pandas", "Index"),
    ("pandas", "Series"),
    ("pydantic", "BaseModel"),
}


class TooManyElements(ValueError):
    """An array that cannot be sent, because its JSON text would exceed the limit."""


def plain(value, max_size):
    """Returns the number or list that a scalar or array of NumPy is sent as.

    Raises a `TypeError` for everything else, and `TooManyElements` for an array whose
    text has more than `max_size` characters.
    """
    if not _is_numpy_number(value):
        raise TypeError(f"{type(value).__name__} is not a JSON value")
    size = value.size
    if size * _MIN_ELEMENT_CHARS > max_size:
        raise TooManyElements(f"the array has {size} elements, whose JSON text cannot fit")
    converted = value.tolist()
    if type(converted) is type(value):
        # The type has no counterpart in Python, and would be converted again and again.
        raise TypeError(f"{type(value).__name__} is not a JSON value")
    return converted


def is_whole(value):
    """Returns whether a value is sent as one, although its class may have an iterator."""
    return not _WHOLE.isdisjoint(_bases(value))


def refusal(value):
    """Returns why a value is not sent, and what is sent in its place."""
    if isinstance(value, float):
        return f"{float(value)!r} is not a JSON value; use None or a text in its place"
    name = type(value).__name__
    conversion = _conversion(value)
    return f"{name} is not a JSON value" + (f"; use {conversion}" if conversion else "")


def key_refusal(key):
    """Returns why a key of a dictionary is not sent, and what is sent in its place."""
    name = type(key).__name__
    conversion = "str(key)"
    if _is_numpy_number(key):
        conversion = "key.item()"
    elif isinstance(key, (datetime.date, datetime.time)):
        conversion = "key.isoformat()"
    elif isinstance(key, enum.Enum):
        conversion = "key.value"
    elif isinstance(key, tuple):
        conversion = 'a text such as "/".join(key)'
    return f"a key of type {name} is not a JSON key; use {conversion}"


def _conversion(value):
    kind = type(value)
    bases = _bases(value)
    for package, name, conversion in _PACKAGED:
        if (package, name) in bases:
            if name == "BaseModel" and not hasattr(kind, "model_dump"):
                return "x.dict()"
            return conversion
    for types, conversion in _STANDARD:
        if isinstance(value, types):
            return conversion
    if isinstance(value, type):
        return "x.__name__, or a value in place of the class"
    if hasattr(kind, "__dataclass_fields__"):
        return "dataclasses.asdict(x)"
    if hasattr(kind, "__attrs_attrs__"):
        return "attrs.asdict(x)"
    if inspect.isawaitable(value):
        return "await x"
    if ("numpy", "ndarray") in bases:
        return "x.astype(str).tolist()"
    if isinstance(value, Mapping):
        return "dict(x)"
    if isinstance(value, Iterable):
        return "list(x)"
    if inspect.isroutine(value):
        return "its result, x(...)"
    return None


def _is_numpy_number(value):
    """Returns whether a value is a scalar or array of numbers, text or objects."""
    bases = _bases(value)
    is_numpy = ("numpy", "ndarray") in bases or ("numpy", "generic") in bases
    return is_numpy and value.dtype.kind in _NUMPY_KINDS


def _bases(value):
    """Returns the package and name of each class of a value."""
    bases = []
    for base in type(value).__mro__:
        module = base.__module__
        package = module.partition(".")[0] if isinstance(module, str) else None
        bases.append((package, base.__name__))
    return bases
