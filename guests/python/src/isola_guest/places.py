"""Where user code is: the frames between the host's call and it are left out."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

# Frames of the runner, and of what it drives user code with.
_HIDDEN = ("/isola_guest/", "/sandbox/", "/asyncio/")

# So many tasks are named.
_SHOWN = 10


def is_hidden(filename):
    return filename.startswith("/") and any(part in filename for part in _HIDDEN)


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
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(awaited, kind + "_frame")), None)
        if kind is None:
            break
        frame = getattr(awaited, kind + "_frame")
        if frame is not None and not is_hidden(frame.f_code.co_filename):
            place = f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await" if kind == "cr" else f"{kind}_await", None)
    return place
