"""The generator of `isola/sync.py`, on small packages and on this one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import generate_sync

HEAD = """
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
"""


def generate(monkeypatch: pytest.MonkeyPatch, source: str, *names: str) -> str:
    """Generates the synchronous half of a package of one module, without its imports."""
    for table in ("REWRITES", "SHARED", "OMITTED"):
        monkeypatch.setattr(generate_sync, table, ())
    imported = f"from ._module import {', '.join(names)}\n__all__ = {list(names)}\n"
    sources = {"__init__": imported, "_module": HEAD + source}
    text = generate_sync.Generator(sources).generate()
    compile(text, "sync.py", "exec")
    return formatted(text.partition("]\n\n\n")[2])


def formatted(source: str) -> str:
    """Returns a source in one format. The generator leaves that to `cargo xtask generate`."""
    return ast.unparse(ast.parse(source))


def test_the_committed_module_is_current() -> None:
    committed = generate_sync.PACKAGE / "sync.py"
    assert formatted(committed.read_text()) == formatted(generate_sync.generate())
    root = Path(generate_sync.__file__).parents[2]
    assert committed == root / generate_sync.OUTPUT


FUNCTION = '''
async def f(a: int, /, b: str = "x", *c: int, d: float | None = 1 << 20, **e: int) -> str:
    """Does it."""
    return "y"
'''

SYNC_FUNCTION = '''\
def f(a: int, /, b: str = "x", *c: int, d: float | None = 1 << 20, **e: int) -> str:
    """Does it."""
    return _blocking.run(_isola.f(a, b, *c, d=d, **e))
'''


def test_functions_keep_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(monkeypatch, FUNCTION, "f") == formatted(SYNC_FUNCTION)


CLASSES = '''
class Made:
    """One that is made."""

    def __init__(self, native: _native.Made) -> None:
        self._native = native

    @property
    def size(self) -> int:
        """The size."""
        return 1

    async def copies(self, count: int = 1) -> list[Made]:
        """Copies it."""
        return []

    async def merge(self, other: Made | str) -> Made:
        """Merges them."""
        return self

    async def events(self) -> AsyncGenerator[int, None]:
        """Yields its events."""
        yield 1

    def close(self) -> None:
        """Closes it."""

    async def aclose(self) -> None:
        """Does the same."""

    async def _private(self) -> None: ...


class Maker:
    """One that makes."""

    def __init__(self, first: Made, *, name: str = "") -> None:
        self._first = first

    @asynccontextmanager
    async def make(self) -> AsyncIterator[Made]:
        """Makes one."""
        yield self._first

    async def aclose(self) -> None:
        """Closes it."""
'''

SYNC_CLASSES = '''\
class Made:
    """One that is made."""

    def __init__(self, inner: _isola.Made) -> None:
        self._inner = inner

    @property
    def size(self) -> int:
        """The size."""
        return self._inner.size

    def copies(self, count: int = 1) -> list[Made]:
        """Copies it."""
        return [Made(inner) for inner in _blocking.run(self._inner.copies(count))]

    def merge(self, other: Made | str) -> Made:
        """Merges them."""
        return Made(
            _blocking.run(self._inner.merge(other._inner if isinstance(other, Made) else other))
        )

    def events(self) -> Generator[int, None, None]:
        """Yields its events."""
        return _blocking.iterate(self._inner.events())

    def close(self) -> None:
        """Closes it."""
        self._inner.close()


class Maker:
    """One that makes."""

    def __init__(self, first: Made, *, name: str = "") -> None:
        self._inner = _isola.Maker(first._inner, name=name)

    @contextmanager
    def make(self) -> Iterator[Made]:
        """Makes one."""
        with _blocking.enter(self._inner.make()) as inner:
            yield Made(inner)

    def close(self) -> None:
        """Closes it."""
        _blocking.run(self._inner.aclose())
'''


def test_classes_that_return_each_other_are_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(monkeypatch, CLASSES, "Made", "Maker") == formatted(SYNC_CLASSES)


MADE = '''
class Made:
    """One that is made."""

    def __init__(self, native: _native.Made) -> None:
        self._native = native

    async def close(self) -> None:
        """Closes it."""
'''


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("async def f() -> None: ...", "f has no docstring"),
        ('async def f(a) -> None:\n    """Does."""', "f: the parameter a has no annotation"),
        ('async def f():\n    """Does."""', "f: its result has no annotation"),
        ('async def f() -> Other:\n    """Does."""', "Other is not defined"),
        ('async def f() -> None:\n    """Awaits it."""', "add 'Awaits' of its docstring"),
        ('async def f(**a: object) -> None:\n    """Does."""', "no typed dictionary"),
        ('async def f() -> dict[str, Made]:\n    """Does."""', "cannot wrap a result of the type"),
        ('async def f(a: list[Made]) -> None:\n    """Does."""', "cannot unwrap the parameter a"),
        ('def f() -> Made:\n    """Does."""', "f is exported as it is, but uses Made"),
        (
            'class f(Made):\n    """Does."""\n    async def g(self) -> None:\n        """Does."""',
            "f has base classes or attributes",
        ),
        (
            'class f:\n    """Does."""\n    def __len__(self) -> int: ...\n'
            '    async def g(self) -> None:\n        """Does."""',
            "f.__len__ is a special method",
        ),
        (
            'class f:\n    """Does."""\n    @classmethod\n    async def g(cls) -> None:\n'
            '        """Does."""',
            "f.g has the decorators classmethod",
        ),
    ],
)
def test_unsupported_definition_is_an_error(
    monkeypatch: pytest.MonkeyPatch, source: str, why: str
) -> None:
    with pytest.raises(generate_sync.GenerateError, match=why):
        generate(monkeypatch, MADE + source, "Made", "f")


def test_unused_rewrite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    unused = (*generate_sync.REWRITES, ("nowhere in a docstring", ""))
    monkeypatch.setattr(generate_sync, "REWRITES", unused)
    with pytest.raises(generate_sync.GenerateError, match="nowhere in a docstring"):
        generate_sync.generate()
