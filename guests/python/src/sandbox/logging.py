"""Log records for the host.

Those of the standard `logging` module come here too, as long as a script
configures no handler of its own: all levels, for the host to choose.
"""

import logging as _logging

from isola_guest import stdio as _stdio
from wit_world.imports import host as _host

__all__ = ["debug", "error", "info", "warning"]


def debug(message, *args, **fields):
    """Logs at level `debug`."""
    _log(_host.Level.DEBUG, message, args, fields)


def info(message, *args, **fields):
    """Logs at level `info`."""
    _log(_host.Level.INFO, message, args, fields)


def warning(message, *args, **fields):
    """Logs at level `warning`."""
    _log(_host.Level.WARNING, message, args, fields)


def error(message, *args, **fields):
    """Logs at level `error`."""
    _log(_host.Level.ERROR, message, args, fields)


def _log(level, message, args, fields):
    text = str(message)
    if args:
        text %= args
    if fields:
        text += "".join(f" {name}={value!r}" for name, value in fields.items())
    _stdio.flush()
    _host.log(level, text.encode("utf-8", "backslashreplace").decode())


class _HostHandler(_logging.Handler):
    """Hands the records of the standard module to the host."""

    def emit(self, record):
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + _logging.Formatter().formatException(record.exc_info)
        if record.levelno >= _logging.ERROR:
            level = _host.Level.ERROR
        elif record.levelno >= _logging.WARNING:
            level = _host.Level.WARNING
        elif record.levelno >= _logging.INFO:
            level = _host.Level.INFO
        else:
            level = _host.Level.DEBUG
        _log(level, text, (), {})


# It serves whoever has no handler. `logging.basicConfig` works as ever.
_logging.lastResort = _HostHandler()
_logging.root.setLevel(_logging.DEBUG)
