"""Header fields of responses and requests."""

from collections.abc import Mapping


class Headers(dict):
    """The header fields of a response.

    A dictionary of lower-case names with case-insensitive lookup. Fields with the same
    name are joined with ", ", as RFC 9110 allows; `get_all` and `multi_items` return
    the single fields, as `Set-Cookie` requires.
    """

    __module__ = "sandbox.http"

    def __init__(self, fields=()):
        super().__init__()
        self._fields = [(name.lower(), value) for name, value in fields]
        for name, value in self._fields:
            known = super().get(name)
            super().__setitem__(name, value if known is None else f"{known}, {value}")

    def __getitem__(self, name):
        return super().__getitem__(_folded(name))

    def __contains__(self, name):
        return super().__contains__(_folded(name))

    def get(self, name, default=None):
        """Returns the field with this name, in any case, or `default`."""
        return super().get(_folded(name), default)

    def get_all(self, name):
        """Returns the values of all fields with this name, in order."""
        return [value for known, value in self._fields if known == _folded(name)]

    def multi_items(self):
        """Returns all fields as `(name, value)`, including repeated ones, in order."""
        return list(self._fields)


def outgoing(headers):
    """Converts the fields of a request to a list of pairs.

    They are given as pairs, or as a mapping whose values may be lists for repeated
    fields.
    """
    if headers is None:
        return []
    if isinstance(headers, Headers):
        return headers.multi_items()
    if not isinstance(headers, Mapping):
        return [_field(*pair) for pair in headers]
    fields = []
    for name, value in headers.items():
        values = value if isinstance(value, (list, tuple)) else (value,)
        fields += (_field(name, value) for value in values)
    return fields


def _field(name, value):
    if not isinstance(name, str):
        raise TypeError(f"the name of a header field must be a str, not {type(name).__name__}")
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("latin-1")
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"the header field {name} must be a str, not {type(value).__name__}")
    return name, str(value)


def _folded(name):
    return name.lower() if isinstance(name, str) else name
