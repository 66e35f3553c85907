"""Serialization of values: JSON, YAML and CBOR."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, overload

__all__ = ["dumps", "loads"]

# The values that JSON can represent. A TypedDict is a mapping to type checkers, and a
# dict at run time.
_Value: TypeAlias = (
    str | int | float | list[Any] | tuple[Any, ...] | dict[Any, Any] | Mapping[str, object] | None
)

@overload
def dumps(value: _Value, format: Literal["json"]) -> str:
    """Serializes a value: to a str for `"json"` and `"yaml"`, to bytes for `"cbor"`."""

@overload
def dumps(value: object, format: Literal["yaml"]) -> str: ...
@overload
def dumps(value: object, format: Literal["cbor"]) -> bytes: ...
@overload
def loads(value: str | bytes | bytearray, format: Literal["json"]) -> Any:
    """Deserializes a value from text or bytes."""

@overload
def loads(value: str | bytes, format: Literal["yaml"]) -> Any: ...
@overload
def loads(value: bytes | bytearray | memoryview, format: Literal["cbor"]) -> Any: ...
