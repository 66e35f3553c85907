"""The events of a running call, for use with `match`:

    match event:
        case isola.ResultEvent(value):
            ...
        case isola.LogEvent(text, level="error"):
            ...

A pattern without fields, such as `isola.EndEvent()`, matches every event of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from ._json import decode

if TYPE_CHECKING:
    from ._arguments import JsonValue
    from ._errors import IsolaError


@dataclass(frozen=True)
class ResultEvent:
    """A partial result: an item that a generator yielded."""

    data: JsonValue


@dataclass(frozen=True)
class EndEvent:
    """The successful end of the call, with its result. The last event."""

    data: JsonValue


@dataclass(frozen=True)
class StdoutEvent:
    """Text for standard output. Not necessarily a complete line."""

    data: str


@dataclass(frozen=True)
class StderrEvent:
    """Text for standard error. Not necessarily a complete line."""

    data: str


@dataclass(frozen=True)
class ErrorEvent:
    """The failure of the call: the error's text and the error itself. The last event."""

    data: str
    error: IsolaError


@dataclass(frozen=True)
class LogEvent:
    """A log record: its message, and its level `debug`, `info`, `warning` or `error`."""

    data: str
    level: str


Event = Union[ResultEvent, EndEvent, StdoutEvent, StderrEvent, ErrorEvent, LogEvent]
"""An event of a call."""


def from_native(kind: str, text: str, detail: object) -> Event:
    """Creates the event for a record of the native module."""
    if kind == "stdout":
        return StdoutEvent(text)
    if kind == "stderr":
        return StderrEvent(text)
    if kind == "result":
        return ResultEvent(decode(text))
    if kind == "end":
        return EndEvent(decode(text))
    if kind == "log":
        return LogEvent(text, str(detail))
    return ErrorEvent(text, detail)  # type: ignore[arg-type]
