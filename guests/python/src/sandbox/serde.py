"""Serialization of values: JSON, YAML and CBOR."""

import io as _io
import json as _json

import cbor2 as _cbor2
import yaml as _yaml

__all__ = ["dumps", "loads"]


def dumps(value, format):
    """Serializes a value: to a str for `"json"` and `"yaml"`, to bytes for `"cbor"`.

    Raises `TypeError` for a value that the format cannot represent, and `ValueError`
    for an unknown format.
    """
    return _codec(format)[0](value)


def loads(value, format):
    """Deserializes a value from text or bytes.

    YAML is limited to the safe subset: plain values, never Python objects. Raises
    `ValueError` for text that is not valid in the format, and for an unknown format.
    """
    return _codec(format)[1](value)


def _codec(format):
    codec = _CODECS.get(format) if isinstance(format, str) else None
    if codec is None:
        known = ", ".join(map(repr, _CODECS))
        raise ValueError(f"unknown format {format!r}: use one of {known}")
    return codec


def _dump_json(value):
    try:
        return _json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        # NaN, or a cycle.
        raise ValueError(f"the value cannot be encoded as JSON: {error}") from None


def _dump_yaml(value):
    try:
        return _yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    except _yaml.representer.RepresenterError as error:
        raise TypeError(f"{_name(error.args[-1])} is not a YAML value") from None


def _load_yaml(text):
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"YAML must be a str, not {_name(text)}")
    try:
        return _yaml.safe_load(text)
    except _yaml.YAMLError as error:
        raise ValueError(f"not valid YAML of plain values: {error}") from None
    except RecursionError:
        raise ValueError("the YAML is nested too deeply") from None


def _dump_cbor(value):
    try:
        return _cbor2.dumps(value)
    except _cbor2.CBOREncodeError as error:
        raise TypeError(f"the value cannot be encoded as CBOR: {error}") from None


def _load_cbor(data):
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"CBOR must be bytes, not {_name(data)}")
    data = bytes(data)
    if data[:1] == b"\xff":
        raise ValueError("not valid CBOR: it starts with a break code")
    source = _io.BytesIO(data)
    try:
        value = _cbor2.load(source)
    except RecursionError:
        raise ValueError("the CBOR is nested too deeply") from None
    except (_cbor2.CBORDecodeError, ValueError, OverflowError) as error:
        raise ValueError(f"not valid CBOR: {error}") from None
    if (rest := len(data) - source.tell()) > 0:
        raise ValueError(f"not a single CBOR value: {rest} bytes follow it")
    return value


def _name(value):
    return type(value).__name__


_CODECS = {
    "json": (_dump_json, _json.loads),
    "yaml": (_dump_yaml, _load_yaml),
    "cbor": (_dump_cbor, _load_cbor),
}
