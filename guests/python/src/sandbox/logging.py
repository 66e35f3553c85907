"""Log records for the host.

Records of the standard `logging` module are sent to the host, too, unless a script
configures another handler. All levels are sent; the host filters them.
"""

import functools as _functools
import logging as _logging
import sys as _sys
from collections.abc import Mapping as _Mapping

from isola_guest import failures as _failures
from isola_guest import places as _places
from isola_guest import stdio as _stdio
from wit_world.imports import host as _host

__all__ = ["debug", "error", "info", "warning"]


def debug(message, /, *args, exc_info=None, **fields):
    """Logs at level `debug`."""
    _log(_host.Level.DEBUG, message, args, exc_info, fields)


def info(message, /, *args, exc_info=None, **fields):
    """Logs at level `info`."""
    _log(_host.Level.INFO, message, args, exc_info, fields)


def warning(message, /, *args, exc_info=None, **fields):
    """Logs at level `warning`."""
    _log(_host.Level.WARNING, message, args, exc_info, fields)


def error(message, /, *args, exc_info=None, **fields):
    """Logs at level `error`."""
    _log(_host.Level.ERROR, message, args, exc_info, fields)


def _log(level, message, args, exc_info, fields):
    # As in the standard module, a single mapping is used for `%(name)s`.
    if len(args) == 1 and isinstance(args[0], _Mapping) and args[0]:
        args = args[0]
    text = _formatted(message, args) + _shown(fields)
    if exc_info:
        if isinstance(exc_info, BaseException):
            raised = exc_info
        else:
            raised = exc_info[1] if isinstance(exc_info, tuple) else _sys.exception()
        text += _traceback(raised)
    _send(level, text)


def _formatted(message, args):
    """Returns the message with its arguments. A wrong format is logged, not raised."""
    try:
        text = str(message)
        return text % args if args else text
    except Exception as error:
        return f"{_safely(str, message)} (not formatted: {error}; arguments: {_safely(repr, args)})"


def _shown(fields):
    return "".join(f" {name}={_safely(repr, value)}" for name, value in fields.items())


def _safely(show, value):
    try:
        return show(value)
    except Exception:
        return f"<a {type(value).__name__} that cannot be shown>"


def _traceback(error):
    return "" if error is None else "\n" + _failures.trace(error).rstrip("\n")


def _send(level, text):
    _stdio.flush()
    _host.log(level, text.encode("utf-8", "backslashreplace").decode())


class _HostHandler(_logging.Handler):
    """A handler that sends the records of the standard module to the host."""

    def __init__(self, formatter=None):
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record):
        try:
            text = self.format(record)
        except Exception:
            text = _formatted(record.msg, record.args)
        _send(_level(record.levelno), text)


class _Plain(_logging.Formatter):
    """A formatter that formats records like the functions of this module."""

    def format(self, record):
        text = _formatted(record.msg, record.args)
        text += _shown(
            {
                name: value
                for name, value in record.__dict__.items()
                if name not in _STANDARD_ATTRIBUTES
            }
        )
        if record.exc_info:
            text += _traceback(record.exc_info[1])
        if record.stack_info:
            text += "\n" + _places.without_hidden(record.stack_info)
        return text


def _level(number):
    if number >= _logging.ERROR:
        return _host.Level.ERROR
    if number >= _logging.WARNING:
        return _host.Level.WARNING
    if number >= _logging.INFO:
        return _host.Level.INFO
    return _host.Level.DEBUG


# The attributes of every record. All others are fields: the `extra` of the call.
_STANDARD_ATTRIBUTES = _logging.makeLogRecord({}).__dict__.keys() | {
    "message",
    "asctime",
    "taskName",
}

# Used for loggers without a handler.
_handler = _HostHandler(_Plain())
_logging.lastResort = _handler
_logging.root.setLevel(_logging.NOTSET)
# Pillow describes each part of a file that it reads.
_logging.getLogger("PIL").setLevel(_logging.INFO)


def _has_handler(logger):
    """Returns whether a logger has a handler for its records.

    Libraries give their loggers a `NullHandler`. It only counts if no handler of a
    parent could follow.
    """
    while logger is not None:
        last = not logger.propagate or logger.parent is None
        for handler in logger.handlers:
            if last or not isinstance(handler, _logging.NullHandler):
                return True
        logger = None if last else logger.parent
    return False


_original_call_handlers = _logging.Logger.callHandlers
_original_basic_config = _logging.basicConfig


@_functools.wraps(_original_call_handlers)
def _call_handlers(self, record):
    if _has_handler(self) or _logging.lastResort is not _handler:
        _original_call_handlers(self, record)
    else:
        _handler.handle(record)


@_functools.wraps(_original_basic_config)
def _basic_config(**kwargs):
    # The functions of `logging` call it without arguments. A handler exists already.
    if not kwargs and _logging.lastResort is _handler:
        return
    # Without a destination, records are sent to the host.
    if all(kwargs.get(name) is None for name in ("filename", "stream", "handlers")):
        own_format = any(kwargs.get(name) for name in ("format", "datefmt", "style"))
        kwargs["handlers"] = [_HostHandler(None if own_format else _Plain())]
    _original_basic_config(**kwargs)


_logging.Logger.callHandlers = _call_handlers
_logging.basicConfig = _basic_config
