"""The HTTP client of the guest. It reaches what the host lets it reach."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Never, Protocol, TypeAlias, TypeVar, overload

__all__ = [
    "AsyncResponse",
    "Headers",
    "Request",
    "RequestError",
    "Response",
    "ServerSentEvent",
    "fetch",
]

_T = TypeVar("_T")

_Bytes: TypeAlias = bytes | bytearray | memoryview

class _File(Protocol):
    """A file object: `BytesIO`, an open file, or anything with this method."""

    def read(self, size: int, /) -> _Bytes | str: ...

# What JSON can hold. A TypedDict is a mapping to type checkers, and a dict when
# the script runs.
_Value: TypeAlias = (
    str | int | float | list[Any] | tuple[Any, ...] | dict[Any, Any] | Mapping[str, object]
)

_Body: TypeAlias = _Bytes | _File | Iterator[_Bytes] | AsyncIterable[_Bytes] | _Value

_Content: TypeAlias = _Bytes | str | _File
_FormField: TypeAlias = _Content | tuple[str, _Content, str | None]
_Files: TypeAlias = Mapping[str, _FormField]

_FieldValue: TypeAlias = str | bytes | bytearray | int | float
_Headers: TypeAlias = (
    Mapping[str, _FieldValue | list[str] | list[_FieldValue] | tuple[_FieldValue, ...]]
    | Sequence[tuple[str, _FieldValue]]
    | Iterator[tuple[str, _FieldValue]]
)

_Param: TypeAlias = str | bytes | int | float
_Params: TypeAlias = (
    Mapping[str, _Param | Sequence[_Param]] | Sequence[tuple[str, _Param | Sequence[_Param]]]
)

def fetch(
    method: str,
    url: str,
    *,
    params: _Params | None = None,
    headers: _Headers | None = None,
    files: _Files | None = None,
    body: _Body | None = None,
    timeout: float | None = None,
    proxy: str | None = None,
) -> Request:
    """Describes a request; entering it, with `with` or `async with`, sends it."""

class Request:
    """A request that is not sent yet. It is sent once."""

    method: str
    url: str

    def __init__(
        self,
        method: str,
        url: str,
        params: _Params | None,
        headers: _Headers | None,
        files: _Files | None,
        body: _Body | None,
        timeout: float | None,
        proxy: str | None,
    ) -> None: ...
    def __enter__(self) -> Response: ...
    def __exit__(self, *_: object) -> None: ...
    async def __aenter__(self) -> AsyncResponse: ...
    async def __aexit__(self, *_: object) -> None: ...

class _Received:
    status: int

    # Only `with fetch(...)` makes one.
    def __init__(self, of_the_runner: Never, /) -> None: ...
    @property
    def headers(self) -> Headers:
        """The header fields. They are only sorted out for whoever asks."""

    def close(self) -> None:
        """Closes the connection. Leaving the `with` block does it, too."""

class Response(_Received):
    """A response for synchronous code."""

    def read(self, size: int = -1) -> bytes:
        """Reads `size` bytes, or all; fewer only at the end."""

    def text(self) -> str:
        """The rest of the body as text."""

    def json(self) -> Any:
        """The rest of the body as a JSON value."""

    def iter_bytes(self) -> Generator[bytes, None, None]:
        """The body as it comes."""

    def iter_lines(self) -> Generator[str, None, None]:
        """The body's lines, without their ends, as they come."""

    def iter_sse(self) -> Generator[ServerSentEvent, None, None]:
        """The events of an event stream, as they come."""

class AsyncResponse(_Received):
    """A response for asynchronous code."""

    async def aread(self, size: int = -1) -> bytes:
        """Reads `size` bytes, or all; fewer only at the end."""

    async def atext(self) -> str:
        """The rest of the body as text."""

    async def ajson(self) -> Any:
        """The rest of the body as a JSON value."""

    def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes."""

    def aiter_lines(self) -> AsyncGenerator[str, None]:
        """The body's lines, without their ends, as they come."""

    def aiter_sse(self) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of an event stream, as they come."""

class Headers(dict[str, str]):
    """The header fields of a response, by lower-case names; any case finds one."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None: ...
    def __getitem__(self, name: str) -> str: ...
    def __contains__(self, name: object) -> bool: ...
    @overload
    def get(self, name: str, default: None = None) -> str | None:
        """The field of this name, in any case, or `default`."""

    @overload
    def get(self, name: str, default: str) -> str: ...
    @overload
    def get(self, name: str, default: _T) -> str | _T: ...
    def get_all(self, name: str) -> list[str]:
        """The values of all fields of this name, in their order."""

    def multi_items(self) -> list[tuple[str, str]]:
        """All fields as `(name, value)`, repeated ones too, in their order."""

@dataclass(frozen=True)
class ServerSentEvent:
    """An event of an event stream."""

    data: str
    event: str = "message"
    id: str = ""

class RequestError(OSError):
    """An HTTP request failed. The message is the host's."""
