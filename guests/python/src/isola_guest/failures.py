"""Exceptions of user code, as the host is told of them."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import traceback

from componentize_py_types import Err
from wit_world.exports.guest import Failure, FailureKind

from . import pending, places, values

# So many notes of an exception are shown of its first and of its last ones.
_NOTES = 10

# What an exception may say; the middle of a longer text is left out.
_LONGEST = 64 * 1024


def failure(error):
    """What the contract raises for an exception."""
    name = type(error).__qualname__
    try:
        message = _exit_status(error) if isinstance(error, SystemExit) else str(error)
    except Exception:
        message = "<the exception cannot be shown>"
    try:
        text = trace(error)
    except Exception:
        text = ""
    return Err(Failure(_sendable(name), _sendable(message), _sendable(text), _kind(error)))


def _exit_status(error):
    """A number, nothing, or a text: as CPython takes it at its end."""
    if error.code is None:
        return ""
    return str(int(error.code)) if isinstance(error.code, int) else str(error.code)


def _kind(error):
    if isinstance(error, MemoryError):
        return FailureKind.MEMORY
    if isinstance(error, RecursionError):
        return FailureKind.RECURSION
    if isinstance(error, values.ValueRefused):
        return FailureKind.VALUE
    if isinstance(error, values.ValueTooLarge):
        return FailureKind.SIZE
    if isinstance(error, pending.HostcallError):
        return FailureKind.HOSTCALL
    return FailureKind.EXCEPTION


def trace(error):
    """The traceback without the frames of the runner."""
    shown = traceback.TracebackException.from_exception(error, limit=-200)
    seen = set()
    parts = [shown]
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        part.__notes__ = _fewer(part.__notes__)
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if not places.is_hidden(frame.filename)]
        )
        parts += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return "".join(shown.format())


def _fewer(notes):
    """The notes of an exception; of many, those in the middle are left out."""
    # The encoder of JSON adds one for each level of a nested value.
    if not isinstance(notes, (list, tuple)) or len(notes) <= 2 * _NOTES:
        return notes
    left_out = len(notes) - 2 * _NOTES
    return [*notes[:_NOTES], f"[... {left_out} more notes ...]", *notes[-_NOTES:]]


def _sendable(text):
    """Text without lone surrogates, which have no UTF-8 form, and not too long."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST // 2]}\n[... {len(text) - _LONGEST} characters ...]\n{text[-_LONGEST // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()
