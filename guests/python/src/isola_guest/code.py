"""Code in contexts, as in a notebook: `run-code`, `evaluate`, and the verbs of contexts."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import builtins
import inspect
import os
import sys

from componentize_py_types import Err
from wit_world.exports.guest import Context as ContextInfo, Failure, FailureKind
from wit_world.imports import host

from . import cell_results, cells, interrupts, loop, places, stdio, values

DEFAULT = "default"

# The number of contexts of an interpreter.
MAX_CONTEXTS = 256

# The part of a value's limit that is left for the JSON around a result's entries, at most.
_OVERHEAD_BYTES = 4096

_contexts = {}
_next_number = 1
_cells = _default = None
# True while `run-code` runs, that is, while the host takes events.
_takes_events = False


def prepare(user):
    """Prepares everything that can be done while the component is built."""
    global _cells, _default
    _cells = cells.Cells(_emit, loop.run, hides=places.is_hidden)
    _default = _contexts[DEFAULT] = cells.Context(DEFAULT, module=user)
    # Run each code path once, so that objects created on first use are in the snapshot.
    warm = cells.Context("warm")
    meta_path = list(sys.meta_path)
    _cells.emit = lambda event: values.encode(event)
    for source in ("x = 1\nx + 1", "[{'a': 1.5}]", "object()", "1 / 0", "x = "):
        _cells.run(warm, source)
    _cells.emit = _emit
    _cells.forget()
    sys.meta_path[:] = meta_path
    _cells.activate(_default)
    _default.cwd = None
    del builtins.display


def run(code, context_id):
    """Runs code in a context and returns its number."""
    global _takes_events
    context = _find(context_id)
    limit = values.max_size - min(_OVERHEAD_BYTES, values.max_size // 2)
    _cells.set_limits(limit, limit)
    _takes_events = True
    interrupts.arm()
    try:
        return _cells.run(context, code)
    finally:
        interrupts.disarm()
        _takes_events = False
        # Scripts and calls share the state of the default context.
        _cells.activate(_default)


def evaluate(source):
    """Returns the value of the last expression of source code in the default context."""
    value = _cells.evaluate(_contexts[DEFAULT], source, hides_value=False)
    if value is cells.NO_VALUE:
        return None
    if inspect.isawaitable(value):
        value = loop.run(_await(value))
    return value


def create(cwd):
    global _next_number
    if len(_contexts) >= MAX_CONTEXTS:
        raise _failure(f"a sandbox has at most {MAX_CONTEXTS} contexts: remove one")
    if cwd is not None and not os.path.isdir(cwd):
        raise _failure(f"the working directory {cwd!r:.300} does not exist")
    id = f"context-{_next_number}"
    _next_number += 1
    _contexts[id] = cells.Context(
        id, cwd=_cells.cwd(_default) if cwd is None else os.path.abspath(cwd)
    )
    return id


def restart(id):
    context = _find(id)
    context.restart()


def remove(id):
    _find(id)
    if id == DEFAULT:
        raise _failure("the context 'default' cannot be removed: restart it")
    del _contexts[id]


def infos():
    return [
        ContextInfo(each.name, _cells.cwd(each) or "", each.execution_count)
        for each in list(_contexts.values())
    ]


async def _await(awaitable):
    return await awaitable


def _find(id):
    context = _contexts.get(id)
    if context is None:
        raise _failure(f"the context {id!r:.300} does not exist")
    return context


def _failure(message):
    return Err(Failure("LookupError", message, "", FailureKind.CONTEXT))


def _emit(event):
    """Sends an event to the host, or writes the text of a result that the host ignores."""
    if not _takes_events:
        text = event.get("data", {}).get(cell_results.TEXT)
        if text is not None:
            print(text)
        return
    text = _encoded(event)
    stdio.flush()
    host.code_event(text)


def _encoded(event):
    """Returns the JSON text of an event, without its largest parts if it is too long."""
    while True:
        try:
            return values.encode(event)
        except values.ValueTooLarge:
            if not cell_results.reduce_event(event, values.max_size):
                raise
