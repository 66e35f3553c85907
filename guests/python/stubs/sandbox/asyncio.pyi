"""Asynchronous helpers: calls to the host, and the event loop."""

from collections.abc import AsyncIterable, Awaitable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, overload

__all__ = ["DeadlockError", "HostcallError", "hostcall", "run", "subscribe"]

_T = TypeVar("_T")

# The values that JSON can represent. A TypedDict is a mapping to type checkers, and a
# dict at run time.
_Value: TypeAlias = (
    str | int | float | list[Any] | tuple[Any, ...] | dict[Any, Any] | Mapping[str, object] | None
)

class _Pollable(Protocol):
    """A pollable of `wasi:io/poll`, from the modules in `wit_world.imports`."""

    def ready(self) -> bool: ...
    def block(self) -> None: ...

class DeadlockError(RuntimeError):
    """A wait that no pending operation could ever end."""

class HostcallError(RuntimeError):
    """A hostcall was refused or failed. The message is the host's."""

async def hostcall(call_type: str, payload: _Value = None) -> Any:
    """Calls the function that the host registered as `call_type`."""

@overload
def run(main: Awaitable[_T]) -> _T:
    """Runs a coroutine to its end, from synchronous code, and returns its result."""

@overload
def run(main: AsyncIterable[_Value]) -> None:
    """Sends the items of an async generator to the host as partial results."""

async def subscribe(pollable: _Pollable) -> None:
    """Waits until a native pollable is ready."""
