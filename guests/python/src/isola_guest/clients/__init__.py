"""HTTP clients of the library and of popular packages, over the HTTP of the host.

A sandbox has no sockets. The clients are changed where they would open one: `http.client`
(and so `urllib.request`) and `urllib3` (and so `requests`) get a `HostSocket`, and the
pools of `httpcore` (and so `httpx`) a connection of their own kind. Modules of packages are
changed when they are imported; until then, a lookup by name is all that it costs.
"""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import functools
import sys
from importlib.machinery import PathFinder

from . import pool, sockets, trio

# Maps a module to the function that changes it after its import.
_CHANGES = {
    "httpcore._async.connection_pool": pool.change_async,
    "httpcore._sync.connection_pool": pool.change_sync,
    "trio._core._run": trio.change_run,
    "trio._core._wakeup_socketpair": trio.change_wakeup,
    "urllib3.util.connection": sockets.change_connecting,
    "urllib3.util.wait": sockets.change_waiting,
}

# Maps a module to the function that has to be called before its import.
_PREPARATIONS = {"trio._core": trio.prepare}


class Finder:
    """Finds the modules that are changed, with the finders that follow it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _PREPARATIONS:
            _PREPARATIONS[name]()
        change = _CHANGES.get(name)
        if change is None:
            return None
        finders = iter(sys.meta_path)
        for finder in finders:
            if finder is Finder:
                break
        for finder in finders:
            if (spec := finder.find_spec(name, path, target)) is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader.exec_module = functools.partial(
                        _execute, spec.loader.exec_module, change
                    )
                return spec
        return None


def _execute(execute, change, module):
    execute(module)
    change(module)


# Tracebacks omit frames of the import system.
_execute.__code__ = _execute.__code__.replace(co_filename="<frozen importlib._bootstrap_external>")


def install():
    """Installs the finder: before that of `sys.path`, after that of the library."""
    sys.meta_path.insert(sys.meta_path.index(PathFinder), Finder)
