"""The locations of user code in stacks, without the frames of the runner."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import gc
import types

from . import stdlib

# The maximum number of tasks that are listed.
_MAX_LISTED_TASKS = 10


def is_hidden(filename):
    return filename.startswith(_HIDDEN)


# The runner and the package `sandbox`, and the code of asyncio that runs user code.
_HIDDEN = (
    is_hidden.__code__.co_filename.rpartition("isola_guest/")[0],
    f"{stdlib.ROOT}/asyncio/",
)


def without_hidden(stack):
    """Returns the text of a stack without its hidden frames, which have no source line."""
    lines = stack.split("\n")
    return "\n".join(line for line in lines if not is_hidden(_filename(line)))


def _filename(line):
    indent, _, rest = line.partition('File "')
    return rest.partition('"')[0] if indent == "  " else ""


def of_tasks(tasks):
    """Returns a line for each task with the location at which it waits."""
    tasks = sorted(tasks, key=lambda task: task.get_name())
    lines = [
        f"{task.get_name()} waits at {_location(task.get_coro())}"
        for task in tasks[:_MAX_LISTED_TASKS]
    ]
    if len(tasks) > _MAX_LISTED_TASKS:
        lines.append(f"... and {len(tasks) - _MAX_LISTED_TASKS} more tasks")
    return lines


def _location(awaited):
    """Returns the innermost location of user code in a chain of awaits."""
    location = "an unknown location"
    while awaited is not None:
        frame, awaited = _step(awaited)
        if frame is not None and not is_hidden(frame.f_code.co_filename):
            code = frame.f_code
            location = f"{code.co_filename}, line {frame.f_lineno}, in {code.co_name}"
    return location


def _step(awaited):
    """Returns the frame of an awaited object, and the object that it awaits in turn."""
    if isinstance(awaited, types.CoroutineType):
        return awaited.cr_frame, awaited.cr_await
    if isinstance(awaited, types.AsyncGeneratorType):
        return awaited.ag_frame, awaited.ag_await
    if isinstance(awaited, types.GeneratorType):
        return awaited.gi_frame, awaited.gi_yieldfrom
    # A step of an async generator has no attribute that refers to its generator.
    referents = gc.get_referents(awaited)
    return None, next(
        (each for each in referents if isinstance(each, types.AsyncGeneratorType)), None
    )
