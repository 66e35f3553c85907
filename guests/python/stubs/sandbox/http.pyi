"""The HTTP client of the guest. The host decides which servers it can reach."""

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

# The values that JSON can represent. A TypedDict is a mapping to type checkers, and a
# dict at run time.
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
    """Creates a request, which is sent when it is entered by `with` or `async with`."""

class Request:
    """A request that has not been sent yet. It can be sent once."""

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

    # Only `with fetch(...)` creates one.
    def __init__(self, of_the_runner: Never, /) -> None: ...
    @property
    def headers(self) -> Headers:
        """The header fields, which are parsed on first use."""

    def close(self) -> None:
        """Closes the connection, as does the end of the `with` block."""

class Response(_Received):
    """A response for synchronous code."""

    def read(self, size: int = -1) -> bytes:
        """Reads `size` bytes, or all by default; returns fewer only at the end."""

    def text(self) -> str:
        """Returns the rest of the body as text."""

    def json(self) -> Any:
        """Returns the rest of the body as a JSON value."""

    def iter_bytes(self) -> Generator[bytes, None, None]:
        """Yields the body as it is received."""

    def iter_lines(self) -> Generator[str, None, None]:
        """Yields the body's lines, without line ends, as they are received."""

    def iter_sse(self) -> Generator[ServerSentEvent, None, None]:
        """Yields the events of an event stream as they are received."""

class AsyncResponse(_Received):
    """A response for asynchronous code."""

    async def aread(self, size: int = -1) -> bytes:
        """Reads `size` bytes, or all by default; returns fewer only at the end."""

    async def atext(self) -> str:
        """Returns the rest of the body as text."""

    async def ajson(self) -> Any:
        """Returns the rest of the body as a JSON value."""

    def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """Yields the body as it is received."""

    def aiter_lines(self) -> AsyncGenerator[str, None]:
        """Yields the body's lines, without line ends, as they are received."""

    def aiter_sse(self) -> AsyncGenerator[ServerSentEvent, None]:
        """Yields the events of an event stream as they are received."""

class Headers(dict[str, str]):
    """The header fields of a response, by lower-case names, with case-insensitive lookup."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None: ...
    def __getitem__(self, name: str) -> str: ...
    def __contains__(self, name: object) -> bool: ...
    @overload
    def get(self, name: str, default: None = None) -> str | None:
        """Returns the field with this name, in any case, or `default`."""

    @overload
    def get(self, name: str, default: str) -> str: ...
    @overload
    def get(self, name: str, default: _T) -> str | _T: ...
    def get_all(self, name: str) -> list[str]:
        """Returns the values of all fields with this name, in order."""

    def multi_items(self) -> list[tuple[str, str]]:
        """Returns all fields as `(name, value)`, including repeated ones, in order."""

@dataclass(frozen=True)
class ServerSentEvent:
    """An event of an event stream."""

    data: str
    event: str = "message"
    id: str = ""

class RequestError(OSError):
    """An HTTP request failed. The message is the host's."""
