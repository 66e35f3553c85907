"""Log records for the host."""

from types import TracebackType
from typing import TypeAlias

__all__ = ["debug", "error", "info", "warning"]

_ExcInfo: TypeAlias = (
    bool
    | BaseException
    | tuple[type[BaseException], BaseException, TracebackType | None]
    | tuple[None, None, None]
    | None
)

def debug(message: object, /, *args: object, exc_info: _ExcInfo = None, **fields: object) -> None:
    """Logs at level `debug`."""

def info(message: object, /, *args: object, exc_info: _ExcInfo = None, **fields: object) -> None:
    """Logs at level `info`."""

def warning(message: object, /, *args: object, exc_info: _ExcInfo = None, **fields: object) -> None:
    """Logs at level `warning`."""

def error(message: object, /, *args: object, exc_info: _ExcInfo = None, **fields: object) -> None:
    """Logs at level `error`."""
