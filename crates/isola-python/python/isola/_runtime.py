"""The runtimes: their languages, and where they are installed."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from . import _native
from ._errors import DownloadError

if TYPE_CHECKING:
    from ._options import RuntimeName

_DATA_PACKAGE = "isola-python-data"
_DATA_MODULE = "isola_python_data"


def language_of(runtime: RuntimeName) -> Literal["python", "javascript"]:
    """Returns the language of the programs of a runtime."""
    return "javascript" if runtime == "js" else "python"


def shipped(runtime: RuntimeName) -> Path:
    """Returns the directory in which pip has installed a runtime, if it has."""
    if runtime == "python-data" and (directory := _data_directory()) is not None:
        return directory
    return Path(__file__).parent / "runtimes"


def missing(error: DownloadError, runtime: RuntimeName, version: str | None) -> DownloadError:
    """Returns the error for a runtime that was neither installed nor downloaded.

    If it is one that pip installs on request, and no other `version` was asked for, the
    error says how.
    """
    own = version is None or version.removeprefix("v") == _native.__version__
    if runtime != "python-data" or error.code != "download_failed" or not own:
        return error
    if _data_directory() is not None:
        return error
    message = f'{error}; install the runtime with: pip install "isola[data]"'
    return DownloadError(message, code=error.code)


def _data_directory() -> Path | None:
    """Returns the directory of the package `isola-python-data` of this version.

    One of another version may be left after an update of this package.
    """
    try:
        if metadata.version(_DATA_PACKAGE) != metadata.version("isola"):
            return None
    except metadata.PackageNotFoundError:
        return None
    found = util.find_spec(_DATA_MODULE)
    return None if found is None or found.origin is None else Path(found.origin).parent
