"""Encodes and decodes the values that are passed between host and guest, as JSON."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import json
import math

from . import conversions

_decoder = json.JSONDecoder()
_scan = _decoder.scan_once

# The maximum length of a path in an error message, in characters.
_MAX_PATH_CHARS = 200

max_size = 16 * 1024 * 1024


def _default(value):
    """Returns what is sent in place of a value that the encoder does not know."""
    return conversions.plain(value, max_size)


_encode_ascii = json.JSONEncoder(default=_default, allow_nan=False, separators=(",", ":")).encode

# The part of the encoder that is written in C. The class creates a new one for each
# value, which takes longer than encoding a small value. `_parents` detects cycles; it is
# empty after each value unless an error interrupted the encoder.
_parents = {}
_encode_chunks = json.encoder.c_make_encoder(
    _parents, _default, json.encoder.encode_basestring, None, ":", ",", False, False, False
)


class InvalidValue(TypeError):
    """A value that JSON cannot represent. It appears to user code as a `TypeError`."""


class ValueTooLarge(ValueError):
    """A value whose JSON text exceeds the host's limit. It appears as a `ValueError`."""


for _error in (InvalidValue, ValueTooLarge):
    _error.__module__ = "builtins"
    _error.__name__ = _error.__qualname__ = _error.__base__.__name__


def decode(text):
    """Returns the value of a JSON text."""
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    # The text is surrounded by white space.
    return _decoder.decode(text)


def encode(value):
    """Returns the JSON text of a value. Raises an error with the path of an invalid part."""
    try:
        text = "".join(_encode_chunks(value, 0))
        if not text.isascii():
            # UTF-8 cannot encode a lone surrogate, so it is escaped.
            try:
                size = len(text.encode())
            except UnicodeEncodeError:
                text = _encode_ascii(value)
                size = len(text)
        else:
            size = len(text)
    except conversions.TooManyElements as error:
        _parents.clear()
        raise ValueTooLarge(f"{error}: {max_size} bytes are allowed") from None
    except (TypeError, ValueError) as error:
        _parents.clear()
        path, why = _find_invalid(value)
        path = _shortened(path)
        raise InvalidValue(f"cannot send {path} to the host: {why or error}") from None
    except RecursionError as error:
        _parents.clear()
        # Drops the notes that the encoder adds for each level of the value.
        raise RecursionError(*error.args) from None
    except BaseException:
        _parents.clear()
        raise
    if size > max_size:
        raise ValueTooLarge(f"the value's JSON text has {size} bytes; {max_size} are allowed")
    return text


def _shortened(path):
    """Returns a path without its middle if it is too long."""
    if len(path) <= _MAX_PATH_CHARS:
        return path
    half = _MAX_PATH_CHARS // 2
    return f"{path[:half]}[... {len(path) - 2 * half} characters ...]{path[-half:]}"


def _find_invalid(value):
    """Returns the path of the first part that JSON cannot represent, and the reason."""
    stack = [(value, "$", ())]
    while stack:
        part, path, parents = stack.pop()
        if part is None or isinstance(part, (str, int)):
            continue
        if isinstance(part, float):
            if not math.isfinite(part):
                return path, conversions.refusal(part)
            continue
        if any(part is parent for parent in parents):
            return path, "it contains itself"
        parents = (*parents, part)
        if isinstance(part, dict):
            for key in part:
                if not (key is None or isinstance(key, (str, int, float))):
                    return path, conversions.key_refusal(key)
                if isinstance(key, float) and not math.isfinite(key):
                    return path, f"the key {float(key)!r} is not a JSON key; use str(key)"
            children = [(child, f"{path}.{key}", parents) for key, child in part.items()]
        elif isinstance(part, (list, tuple)):
            children = [(child, f"{path}[{i}]", parents) for i, child in enumerate(part)]
        else:
            try:
                children = [(_default(part), path, parents)]
            except TypeError:
                return path, conversions.refusal(part)
        stack.extend(reversed(children))
    return "the value", None
