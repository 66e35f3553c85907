"""Where user code is: the frames between the host's call and it are left out."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import gc
import types

from . import stdlib

# So many tasks are named.
_SHOWN = 10


def is_hidden(filename):
    return filename.startswith(_HIDDEN)


# The runner and the package `sandbox`, and what drives user code within asyncio.
_HIDDEN = (
    is_hidden.__code__.co_filename.rpartition("isola_guest/")[0],
    f"{stdlib.ROOT}/asyncio/",
)


def without_hidden(stack):
    """The text of a stack, where hidden frames have no line of source."""
    lines = stack.split("\n")
    return "\n".join(line for line in lines if not is_hidden(_filename(line)))


def _filename(line):
    begin, _, rest = line.partition('File "')
    return rest.partition('"')[0] if begin == "  " else ""


def of_tasks(tasks):
    """A line for each task: where it waits."""
    tasks = sorted(tasks, key=lambda task: task.get_name())
    lines = [f"{task.get_name()} waits at {_place(task.get_coro())}" for task in tasks[:_SHOWN]]
    if len(tasks) > _SHOWN:
        lines.append(f"... and {len(tasks) - _SHOWN} more tasks")
    return lines


def _place(awaited):
    """The innermost place of user code in a chain of awaits."""
    place = "an unknown place"
    while awaited is not None:
        frame, awaited = _step(awaited)
        if frame is not None and not is_hidden(frame.f_code.co_filename):
            place = f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name}"
    return place


def _step(awaited):
    """The frame of what is awaited, and what that awaits in turn."""
    if isinstance(awaited, types.CoroutineType):
        return awaited.cr_frame, awaited.cr_await
    if isinstance(awaited, types.AsyncGeneratorType):
        return awaited.ag_frame, awaited.ag_await
    if isinstance(awaited, types.GeneratorType):
        return awaited.gi_frame, awaited.gi_yieldfrom
    # One step of an async generator does not say whose it is.
    referents = gc.get_referents(awaited)
    return None, next((each for each in referents if isinstance(each, types.AsyncGeneratorType)), None)
