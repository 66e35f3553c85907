"""Converts exceptions of user code to the form in which the host receives them."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import traceback

from componentize_py_types import Err
from wit_world.exports.guest import Failure, FailureKind

from . import pending, places, values

# The number of notes of an exception that are shown from the start and from the end.
_SHOWN_NOTES = 10

# The maximum length of an exception's texts, in characters. The middle of a longer text
# is omitted.
_MAX_TEXT_CHARS = 64 * 1024


def failure(error):
    """Converts an exception to the failure that the contract raises."""
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
    """Returns the exit status as CPython interprets it: a number, nothing, or a text."""
    if error.code is None:
        return ""
    return str(int(error.code)) if isinstance(error.code, int) else str(error.code)


def _kind(error):
    if isinstance(error, MemoryError):
        return FailureKind.MEMORY
    if isinstance(error, RecursionError):
        return FailureKind.RECURSION
    if isinstance(error, values.InvalidValue):
        return FailureKind.VALUE
    if isinstance(error, values.ValueTooLarge):
        return FailureKind.SIZE
    if isinstance(error, pending.HostcallError):
        return FailureKind.HOSTCALL
    return FailureKind.EXCEPTION


def trace(error):
    """Returns the traceback without the frames of the runner."""
    shown = traceback.TracebackException.from_exception(error, limit=-200)
    seen = set()
    parts = [shown]
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        part.__notes__ = _truncated_notes(part.__notes__)
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if not places.is_hidden(frame.filename)]
        )
        parts += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return "".join(shown.format())


def _truncated_notes(notes):
    """Returns the notes of an exception, without those in the middle if they are many."""
    # The JSON encoder adds one for each level of a nested value.
    if not isinstance(notes, (list, tuple)) or len(notes) <= 2 * _SHOWN_NOTES:
        return notes
    omitted = len(notes) - 2 * _SHOWN_NOTES
    return [*notes[:_SHOWN_NOTES], f"[... {omitted} more notes ...]", *notes[-_SHOWN_NOTES:]]


def _sendable(text):
    """Returns the text truncated, and without lone surrogates, which UTF-8 cannot encode."""
    if len(text) > _MAX_TEXT_CHARS:
        half = _MAX_TEXT_CHARS // 2
        text = f"{text[:half]}\n[... {len(text) - _MAX_TEXT_CHARS} characters ...]\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
