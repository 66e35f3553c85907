"""Values as text or bytes, and back: JSON, YAML and CBOR."""

import io as _io
import json as _json

import cbor2 as _cbor2
import yaml as _yaml

__all__ = ["dumps", "loads"]


def dumps(value, format):
    """The value in a format: a str for `"json"` and `"yaml"`, bytes for `"cbor"`.

    Raises `TypeError` for a value that the format cannot hold, and `ValueError`
    for an unknown format.
    """
    return _codec(format)[0](value)


def loads(value, format):
    """The value that a text or bytes stand for.

    YAML is the safe subset: plain values, never objects of Python. Raises
    `ValueError` for text that is not of the format, and for an unknown format.
    """
    return _codec(format)[1](value)


def _codec(format):
    codec = _CODECS.get(format) if isinstance(format, str) else None
    if codec is None:
        known = ", ".join(map(repr, _CODECS))
        raise ValueError(f"unknown format {format!r}: it is one of {known}")
    return codec


def _dump_json(value):
    try:
        return _json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        # Not a number, or a circle.
        raise ValueError(f"the value cannot be JSON: {error}") from None


def _dump_yaml(value):
    try:
        return _yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    except _yaml.representer.RepresenterError as error:
        raise TypeError(f"{_name(error.args[-1])} is not a YAML value") from None


def _load_yaml(text):
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"YAML is a str, not {_name(text)}")
    try:
        return _yaml.safe_load(text)
    except _yaml.YAMLError as error:
        raise ValueError(f"this is not plain YAML: {error}") from None
    except RecursionError:
        raise ValueError("this YAML is nested too deep") from None


def _dump_cbor(value):
    try:
        return _cbor2.dumps(value)
    except _cbor2.CBOREncodeError as error:
        raise TypeError(f"the value cannot be CBOR: {error}") from None


def _load_cbor(data):
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"CBOR is bytes, not {_name(data)}")
    data = bytes(data)
    if data[:1] == b"\xff":
        raise ValueError("this is not CBOR: it begins with the end of something")
    source = _io.BytesIO(data)
    try:
        value = _cbor2.load(source)
    except RecursionError:
        raise ValueError("this CBOR is nested too deep") from None
    except (_cbor2.CBORDecodeError, ValueError, OverflowError) as error:
        raise ValueError(f"this is not CBOR: {error}") from None
    if (rest := len(data) - source.tell()) > 0:
        raise ValueError(f"this is not one CBOR value: {rest} bytes follow it")
    return value


def _name(value):
    return type(value).__name__


_CODECS = {
    "json": (_dump_json, _json.loads),
    "yaml": (_dump_yaml, _load_yaml),
    "cbor": (_dump_cbor, _load_cbor),
}
