"""Log records for the host."""

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
