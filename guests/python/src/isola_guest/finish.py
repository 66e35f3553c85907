"""The shutdown of the interpreter, in the order of CPython's own."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import atexit
import gc
import sys

# The names of the modules that were loaded at build time, which are left unchanged.
_build_modules = frozenset()


def prepare():
    """Records the modules that are loaded at build time."""
    global _build_modules
    _build_modules = frozenset(sys.modules)


def finish(user):
    """Runs exit handlers, then releases the objects of user code so that they are destroyed."""
    threading = sys.modules.get("threading")
    if threading is not None:
        # Runs the exit handlers of thread pools and the like.
        threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()
    modules = [module for name, module in sys.modules.items() if name not in _build_modules]
    for name in [name for name in sys.modules if name not in _build_modules]:
        del sys.modules[name]
    _clear(vars(user))
    gc.collect()
    # In reverse order of loading.
    while modules:
        names = getattr(modules.pop(), "__dict__", None)
        if names is not None and "__name__" in names:
            _clear(names)
    gc.collect()


def _clear(names):
    """Clears a module's names as CPython does: those with one underscore first."""
    for name in list(names):
        if name.startswith("_") and not name.startswith("__"):
            names[name] = None
    for name in list(names):
        if name not in ("__builtins__", "__name__"):
            names[name] = None
