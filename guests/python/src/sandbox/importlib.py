"""Imports of modules over HTTP."""

import contextlib as _contextlib
import sys as _sys

from isola_guest import remote as _remote

__all__ = ["http"]


@_contextlib.contextmanager
def http(url):
    """Adds an importer of the modules at `url` to `sys.meta_path`, for a `with` block.

    `url` is a directory of modules, or an archive of them, whose name ends in `.zip`
    or `.whl`. Modules of the guest take precedence. Imported modules remain after the
    block; their later imports are not searched at `url`. A module that cannot be
    fetched is an `ImportError` with the URL.
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
