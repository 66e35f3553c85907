"""The error of an adapter whose framework is not installed."""

from __future__ import annotations


def framework_missing(module: str, extra: str, error: ImportError) -> ImportError:
    """Returns the error for an adapter that cannot import its framework.

    :param module: the name of the adapter's module.
    :param extra: the extra of the package `isorun` that installs the framework.
    :param error: what the import of the framework raised.
    """
    return ImportError(
        f'{module} needs a package that is not installed or too old: pip install "isorun[{extra}]" '
        f"({error})",
        name=error.name,
        path=error.path,
    )
