"""Values that cross the border: JSON, in and out."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import json
import math

_decoder = json.JSONDecoder()
_scan = _decoder.scan_once

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

# The part of the encoder that is written in C. The class makes a new one for
# each value, which takes longer than a small value does. (`_parents` is what it
# finds circles with; it is empty again unless an error interrupted it.)
_parents = {}
_pieces = json.encoder.c_make_encoder(
    _parents, _encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
)

# Characters of a path within a value that an error shows.
_LONGEST_PLACE = 200

max_size = 16 * 1024 * 1024


class ValueRefused(TypeError):
    """A value that JSON cannot hold. To user code it is a `TypeError`."""


class ValueTooLarge(ValueError):
    """A value whose JSON text is longer than the host takes: a `ValueError`."""


for _error in (ValueRefused, ValueTooLarge):
    _error.__module__ = "builtins"
    _error.__name__ = _error.__qualname__ = _error.__base__.__name__


def decode(text):
    """The value of a JSON text."""
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    # There is white space around it.
    return _decoder.decode(text)


def encode(value):
    """The JSON text of a value. Refuses what has none, and says where it is."""
    try:
        text = "".join(_pieces(value, 0))
        if not text.isascii():
            # A lone surrogate has no UTF-8 form; its escape does.
            try:
                size = len(text.encode())
            except UnicodeEncodeError:
                text = _encode_ascii(value)
                size = len(text)
        else:
            size = len(text)
    except (TypeError, ValueError) as error:
        _parents.clear()
        place, why = _find_refused(value)
        place = _shortened(place)
        raise ValueRefused(
            f"cannot send {place} to the host: {why or error}"
        ) from None
    except RecursionError as error:
        _parents.clear()
        # The encoder notes each level of the value.
        raise RecursionError(*error.args) from None
    except BaseException:
        _parents.clear()
        raise
    if size > max_size:
        raise ValueTooLarge(f"the value's JSON text has {size} bytes; {max_size} are allowed")
    return text


def _shortened(place):
    """A path that can be read: the middle of a long one is left out."""
    if len(place) <= _LONGEST_PLACE:
        return place
    half = _LONGEST_PLACE // 2
    return f"{place[:half]}[... {len(place) - 2 * half} characters ...]{place[-half:]}"


def _find_refused(value):
    """The path of the first part that JSON cannot hold, and why it cannot."""
    stack = [(value, "$", ())]
    while stack:
        part, path, parents = stack.pop()
        if part is None or isinstance(part, (str, int)):
            continue
        if isinstance(part, float):
            if not math.isfinite(part):
                return path, f"{part!r} is not a JSON value"
            continue
        if any(part is parent for parent in parents):
            return path, "it contains itself"
        parents = (*parents, part)
        if isinstance(part, dict):
            for key in part:
                if not (key is None or isinstance(key, (str, int, float))):
                    return path, f"a key of type {type(key).__name__} is not a JSON key"
            children = [(child, f"{path}.{key}", parents) for key, child in part.items()]
        elif isinstance(part, (list, tuple)):
            children = [(child, f"{path}[{i}]", parents) for i, child in enumerate(part)]
        else:
            return path, f"{type(part).__name__} is not a JSON value"
        stack.extend(reversed(children))
    return "the value", None
