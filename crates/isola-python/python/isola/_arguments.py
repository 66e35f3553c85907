"""The arguments of a call."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterable, Iterable
from typing import Any, Dict, List, Mapping, NoReturn, Sequence, Union

from . import _native
from ._errors import InvalidArgumentError, StreamClosedError, StreamFullError
from ._streams import FUNCTION

JsonValue = Union[None, bool, int, float, str, List["JsonValue"], Dict[str, "JsonValue"]]
"""A value that is passed between host and guest."""

# The maximum number of values in one reply to the guest.
_MAX_BATCH_VALUES = 256
# The maximum size of a reply with several values, in bytes.
_MAX_BATCH_BYTES = 256 << 10
# The size of the text around the values: `{"items":[],"done":false}`.
_ENVELOPE_BYTES = 25


class Arg:
    """The value of an argument, and its optional name."""

    __slots__ = ("_name", "_value")
    __match_args__ = ("value", "name")
    _name: str | None
    _value: Any

    def __init__(self, value: Any, name: str | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise InvalidArgumentError(f"the name of an Arg must be a string, not {name!r}")
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_name", name)

    @property
    def value(self) -> Any:
        """The value."""
        return self._value

    @property
    def name(self) -> str | None:
        """The name, or `None` for a positional argument."""
        return self._name

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        raise AttributeError(f"an Arg is immutable: {attribute} cannot be set")

    def __delattr__(self, attribute: str) -> NoReturn:
        raise AttributeError(f"an Arg is immutable: {attribute} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Arg):
            return NotImplemented
        return (self._value, self._name) == (other._value, other._name)

    def __hash__(self) -> int:
        return hash((self._value, self._name))

    def __repr__(self) -> str:
        if self._name is None:
            return f"Arg({self._value!r})"
        return f"Arg({self._value!r}, name={self._name!r})"


class StreamArg:
    """An argument whose values are streamed to the guest while it runs.

    A Python guest iterates over it with `for` or `async for`, a JavaScript guest
    with `for await`. `from_iterable` and `from_async_iterable` create one from an
    iterable, which is read at the pace of the guest, at most `capacity` values
    ahead. Otherwise values are added with `send` and `push`, and `end` ends it.

    It can be used for one call, and belongs to the event loop of that call.
    """

    def __init__(self, *, name: str | None = None, capacity: int = 1024) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise InvalidArgumentError(f"capacity is {capacity!r}: give a number of values above 0")
        self._name = name
        self._capacity = capacity
        self._texts: deque[str] = deque()
        self._ended = False
        self._closed = False
        self._failure: BaseException | None = None
        self._changed: asyncio.Event | None = None
        self._source: Iterable[Any] | None = None
        self._async_source: AsyncIterable[Any] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._used = False
        # The number of `send` calls that wait for room.
        self._waiting = 0
        self._max_batch_bytes = _MAX_BATCH_BYTES

    @classmethod
    def from_iterable(
        cls, values: Iterable[Any], *, name: str | None = None, capacity: int = 1024
    ) -> StreamArg:
        """Creates a stream of an iterable's values. It is advanced on the event loop."""
        if not isinstance(values, Iterable):
            raise InvalidArgumentError(f"{type(values).__name__} is not iterable")
        stream = cls(name=name, capacity=capacity)
        stream._source = iter(values)
        return stream

    @classmethod
    def from_async_iterable(
        cls, values: AsyncIterable[Any], *, name: str | None = None, capacity: int = 1024
    ) -> StreamArg:
        """Creates a stream of an asynchronous iterable's values."""
        if not isinstance(values, AsyncIterable):
            raise InvalidArgumentError(f"{type(values).__name__} is not an asynchronous iterable")
        stream = cls(name=name, capacity=capacity)
        stream._async_source = values
        return stream

    @property
    def name(self) -> str | None:
        """The name of the argument, or `None` for a positional one."""
        return self._name

    @property
    def capacity(self) -> int:
        """The maximum number of buffered values."""
        return self._capacity

    def push(self, value: Any) -> None:
        """Adds a value without waiting.

        Raises `StreamFullError` if `capacity` values are buffered already, and
        `StreamClosedError` after `end` or the end of the call.
        """
        self._check_manual()
        text = _native.encode(value)
        self._check_open()
        if len(self._texts) >= self._capacity:
            raise StreamFullError(
                f"the stream is full: the guest has not read {self._capacity} values yet"
            )
        self._add(text)

    async def send(self, value: Any) -> None:
        """Waits for room and adds a value.

        Raises `StreamClosedError` after `end`, and after the end of the call, also if
        the call ends while it waits.
        """
        self._check_manual()
        await self._send(value)

    def end(self) -> None:
        """Ends the stream after the values that were added, and those that wait for room.

        Ending it again has no effect.
        """
        self._check_manual()
        self._end(None)

    def _check_manual(self) -> None:
        if self._source is not None or self._async_source is not None:
            raise InvalidArgumentError(
                "this stream takes its values from an iterable: do not add or end it by hand"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError("the stream is closed: its call has ended")
        if self._ended:
            raise StreamClosedError("the stream has been ended")

    async def _send(self, value: Any) -> None:
        text = _native.encode(value)
        self._check_open()
        self._waiting += 1
        try:
            while len(self._texts) >= self._capacity:
                await self._change()
                if self._closed:
                    self._check_open()
            self._texts.append(text)
        finally:
            self._waiting -= 1
            self._notify()

    def _add(self, text: str) -> None:
        self._texts.append(text)
        self._notify()

    def _end(self, failure: BaseException | None) -> None:
        if not self._ended:
            self._ended = True
            self._failure = failure
            self._notify()

    def _is_complete(self) -> bool:
        """Reports whether no value will be added any more."""
        return self._ended and self._waiting == 0

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _open(self, max_value_size: int) -> None:
        self._max_batch_bytes = min(_MAX_BATCH_BYTES, max_value_size)
        if self._async_source is not None:
            self._pump = asyncio.get_running_loop().create_task(self._copy(self._async_source))

    async def _copy(self, values: AsyncIterable[Any]) -> None:
        try:
            async for value in values:
                await self._send(value)
        except StreamClosedError:
            pass
        except Exception as error:
            self._end(error)
        else:
            self._end(None)

    def _close(self) -> None:
        self._closed = True
        self._texts.clear()
        if self._pump is not None:
            self._pump.cancel()
        self._notify()

    async def _take(self) -> str:
        """Returns the next batch for the guest: `{"items": [...], "done": ...}` as a text.

        It is larger than the guest accepts only if its single value is.
        """
        if self._source is not None:
            self._fill(self._source)
        while not self._texts and not self._is_complete():
            await self._change()
        if not self._texts and self._failure is not None:
            raise self._failure
        items: list[str] = []
        size = _ENVELOPE_BYTES
        while self._texts and len(items) < _MAX_BATCH_VALUES:
            # The comma after the value counts, too.
            size += len(self._texts[0].encode()) + 1
            if items and size > self._max_batch_bytes:
                break
            items.append(self._texts.popleft())
        self._notify()
        done = self._is_complete() and not self._texts and self._failure is None
        return f'{{"items":[{",".join(items)}],"done":{"true" if done else "false"}}}'

    def _fill(self, values: Iterable[Any]) -> None:
        if self._texts or self._ended:
            return
        size = 0
        wanted = min(self._capacity, _MAX_BATCH_VALUES)
        try:
            for _ in range(wanted):
                text = _native.encode(next(values))  # type: ignore[call-overload]
                self._texts.append(text)
                size += len(text)
                if size >= self._max_batch_bytes:
                    break
        except StopIteration:
            self._end(None)
        except Exception as error:
            self._end(error)


_stream_ids = itertools.count(1)


class PreparedCall:
    """A call in the form that the native module takes."""

    __slots__ = ("arguments", "function", "streams")

    def __init__(
        self,
        function: str,
        arguments: list[tuple[str | None, str]],
        streams: dict[int, StreamArg],
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.streams = streams


def prepare(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> PreparedCall:
    """Checks and encodes the arguments of a call."""
    if not isinstance(function, str):
        raise InvalidArgumentError(f"the name of a function must be a string, not {function!r}")
    arguments: list[tuple[str | None, str]] = []
    streams: dict[int, StreamArg] = {}
    markers: list[tuple[str | None, str]] = []
    names: set[str] = set()
    for position, value in enumerate(args):
        name = value.name if isinstance(value, (Arg, StreamArg)) else None
        if isinstance(value, Arg):
            value = value.value
        _add(name or f"positional argument {position}", name, value, arguments, markers, streams)
        if name is not None:
            if name in names:
                raise InvalidArgumentError(f"the argument {name!r} is given twice")
            names.add(name)
    for name, value in kwargs.items():
        if name in names:
            raise InvalidArgumentError(
                f"the argument {name!r} is given twice: by an Arg and by a keyword"
            )
        if isinstance(value, (Arg, StreamArg)):
            if value.name is not None and value.name != name:
                raise InvalidArgumentError(
                    f"the keyword {name!r} is given an argument with the name {value.name!r}"
                )
            if isinstance(value, Arg):
                value = value.value
        _add(name, name, value, arguments, markers, streams)
    if not streams:
        return PreparedCall(function, arguments, streams)
    for stream in streams.values():
        stream._used = True
    positional = ",".join(text for name, text in markers if name is None)
    named = ",".join(f"{_native.encode(name)}:{text}" for name, text in markers if name is not None)
    wrapped: list[tuple[str | None, str]] = [
        (None, _native.encode(function)),
        (None, f"[{positional}]"),
        (None, f"{{{named}}}"),
    ]
    return PreparedCall(FUNCTION, wrapped, streams)


def _add(
    label: str,
    name: str | None,
    value: Any,
    arguments: list[tuple[str | None, str]],
    markers: list[tuple[str | None, str]],
    streams: dict[int, StreamArg],
) -> None:
    if isinstance(value, StreamArg):
        if value._used or any(value is other for other in streams.values()):
            raise InvalidArgumentError(
                f"{label}: a StreamArg can be used only once: create one for each call"
            )
        number = next(_stream_ids)
        streams[number] = value
        markers.append((name, f"[1,{number}]"))
        return
    try:
        text = _native.encode(value)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{label}, {error}") from None
    arguments.append((name, text))
    markers.append((name, f"[0,{text}]"))
