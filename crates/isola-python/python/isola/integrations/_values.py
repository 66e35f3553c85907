"""Values that pass between an embedding program and cells of code in a Python guest.

They are JSON values, and those Python values that an object with the key `$isola` stands
for: tuples, sets, bytes, dates, decimals and so on. `_guest.py` has the guest's half. What
comes from the guest is untrusted: decoding builds only values of the types below, and looks
up objects of the embedding program by their number.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
from collections.abc import Callable, Mapping
from pathlib import PurePath, PurePosixPath
from typing import Any

TAG = "$isola"
"""The key of an object that stands for another value."""

MAX_REFERENCES = 1_000
"""The number of objects that a session keeps for the guest."""

MAX_LABEL_CHARS = 2_000
"""The number of characters of an object's text in the guest."""


class References:
    """Objects of the embedding program that the guest knows only by their number."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._last = 0

    def add(self, value: object) -> int:
        """Keeps an object, and returns its number. Beyond the maximum the oldest one is removed."""
        number = self._numbers.get(id(value))
        if number is None:
            if len(self._objects) >= MAX_REFERENCES:
                oldest = next(iter(self._objects))
                self._numbers.pop(id(self._objects.pop(oldest)))
            self._last = number = self._last + 1
            self._objects[number] = value
            self._numbers[id(value)] = number
        return number

    def get(self, number: object) -> Any:
        """Returns the object with a number that came from the guest."""
        if not isinstance(number, int) or number not in self._objects:
            raise ValueError("the object no longer exists: let the tool return it again")
        return self._objects[number]


def encode(value: Any, references: References | None = None) -> Any:
    """Returns the JSON form of a value. An object without one becomes a reference.

    Without `references` that is a `TypeError`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _tagged("float", repr(float(value)))
    if type(value) is tuple:
        return _tagged("tuple", [encode(item, references) for item in value])
    if isinstance(value, (list, tuple)):
        return [encode(item, references) for item in value]
    if isinstance(value, Mapping):
        return _encode_mapping(value, references)
    if isinstance(value, (set, frozenset)):
        kind = "set" if isinstance(value, set) else "frozenset"
        return _tagged(kind, [encode(item, references) for item in value])
    if isinstance(value, (bytes, bytearray)):
        return _tagged("bytes", base64.b64encode(value).decode())
    if isinstance(value, complex):
        return _tagged("complex", [repr(value.real), repr(value.imag)])
    for kind, cls in _DATES.items():
        if isinstance(value, cls):
            return _tagged(kind, value.isoformat())
    if isinstance(value, datetime.timedelta):
        return _tagged("timedelta", [value.days, value.seconds, value.microseconds])
    if isinstance(value, decimal.Decimal):
        return _tagged("decimal", str(value))
    if isinstance(value, PurePath):
        return _tagged("path", value.as_posix())
    if type(value).__module__ == "numpy" and callable(getattr(value, "tolist", None)):
        # The guest has no numpy, but lists and numbers.
        return encode(value.tolist(), references)
    if references is None:
        raise TypeError(f"a value of type {type(value).__name__} cannot be passed to the sandbox")
    label = _label(value)
    return _tagged("reference", [references.add(value), type(value).__name__, label])


def decode(value: Any, references: References | None = None) -> Any:
    """Returns the value of a JSON form that the guest has sent."""
    if isinstance(value, list):
        return [decode(item, references) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: decode(item, references) for key, item in value.items()}
    kind, data = value[TAG], value.get("value")
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    try:
        if kind == "reference":
            if references is None:
                raise ValueError("there are no objects of the host")
            return references.get(data)
        if decoder is None:
            raise ValueError(f"the type {kind!r:.100} does not exist")
        return decoder(data, lambda item: decode(item, references))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"the guest has sent an invalid value: {error}") from None


def _encode_mapping(value: Mapping[Any, Any], references: References | None) -> Any:
    if all(isinstance(key, str) for key in value) and TAG not in value:
        return {str.__str__(key): encode(item, references) for key, item in value.items()}
    pairs = [[encode(key, references), encode(item, references)] for key, item in value.items()]
    return _tagged("dict", pairs)


def _tagged(kind: str, value: object) -> dict[str, object]:
    return {TAG: kind, "value": value}


def _label(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text[:MAX_LABEL_CHARS]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r:.100} is not a text")


# `datetime` is before its base class `date`.
_DATES: dict[str, Any] = {
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
}

_DECODERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "tuple": lambda data, inner: tuple(inner(item) for item in data),
    "set": lambda data, inner: {inner(item) for item in data},
    "frozenset": lambda data, inner: frozenset(inner(item) for item in data),
    "dict": lambda data, inner: {inner(key): inner(item) for key, item in data},
    "float": lambda data, inner: float(_text(data)),
    "complex": lambda data, inner: complex(*(float(_text(part)) for part in data)),
    "bytes": lambda data, inner: base64.b64decode(_text(data), validate=True),
    "datetime": lambda data, inner: datetime.datetime.fromisoformat(_text(data)),
    "date": lambda data, inner: datetime.date.fromisoformat(_text(data)),
    "time": lambda data, inner: datetime.time.fromisoformat(_text(data)),
    "timedelta": lambda data, inner: datetime.timedelta(*data),
    "decimal": lambda data, inner: decimal.Decimal(_text(data)),
    # A path of the guest is not one of the host.
    "path": lambda data, inner: PurePosixPath(_text(data)),
}
