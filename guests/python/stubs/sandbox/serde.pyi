"""Values as text or bytes, and back: JSON, YAML and CBOR."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, overload

__all__ = ["dumps", "loads"]

# What JSON can hold. A TypedDict is a mapping to type checkers, and a dict when
# the script runs.
_Value: TypeAlias = (
    str | int | float | list[Any] | tuple[Any, ...] | dict[Any, Any] | Mapping[str, object] | None
)

@overload
def dumps(value: _Value, format: Literal["json"]) -> str:
    """The value in a format: a str for `"json"` and `"yaml"`, bytes for `"cbor"`."""

@overload
def dumps(value: object, format: Literal["yaml"]) -> str: ...
@overload
def dumps(value: object, format: Literal["cbor"]) -> bytes: ...
@overload
def loads(value: str | bytes | bytearray, format: Literal["json"]) -> Any:
    """The value that a text or bytes stand for."""

@overload
def loads(value: str | bytes, format: Literal["yaml"]) -> Any: ...
@overload
def loads(value: bytes | bytearray | memoryview, format: Literal["cbor"]) -> Any: ...
