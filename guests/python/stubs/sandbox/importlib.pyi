"""Imports of modules over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["http"]

@contextmanager
def http(url: str) -> Iterator[None]:
    """Adds an importer of the modules at `url` to `sys.meta_path`, for a `with` block."""
