"""The end of the interpreter, in the order in which CPython comes to its own."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import atexit
import gc
import sys

# What was loaded while the component was built stays as it is.
_own = frozenset()


def prepare():
    """Notes what there is at the build."""
    global _own
    _own = frozenset(sys.modules)


def finish(user):
    """Runs exit handlers, then lets go of what user code made, so that it ends."""
    threading = sys.modules.get("threading")
    if threading is not None:
        # Handlers of thread pools and the like.
        threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()
    modules = [module for name, module in sys.modules.items() if name not in _own]
    for name in [name for name in sys.modules if name not in _own]:
        del sys.modules[name]
    _clear(vars(user))
    gc.collect()
    # The last one that was loaded goes first.
    while modules:
        names = getattr(modules.pop(), "__dict__", None)
        if names is not None and "__name__" in names:
            _clear(names)
    gc.collect()


def _clear(names):
    """Empties a module as CPython does: names with one underscore go first."""
    for name in list(names):
        if name.startswith("_") and not name.startswith("__"):
            names[name] = None
    for name in list(names):
        if name not in ("__builtins__", "__name__"):
            names[name] = None
