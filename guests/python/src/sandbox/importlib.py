"""Imports of modules over HTTP."""

import contextlib as _contextlib
import sys as _sys

from isola_guest import remote as _remote

__all__ = ["http"]


@_contextlib.contextmanager
def http(url):
    """Adds an importer of the modules at `url` to `sys.meta_path`, for a `with` block.

    `url` is a folder of modules, or an archive of them, whose name ends in
    `.zip` or `.whl`. What the guest has of its own comes first. Modules that
    were imported stay; what they import later is not looked for at `url` any
    more. What cannot be fetched is an `ImportError` that names the URL.
    """
    importer = _remote.Importer(str(url))
    _sys.meta_path.append(importer)
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name in importer.missed:
            error.msg = f"{error.msg} here or at {importer.url}"
        raise
    finally:
        _remote.remove(importer)
