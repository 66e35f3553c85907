"""The contexts of a sandbox, in which `Sandbox.run_code` runs code."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

from . import _native
from ._bridge import call
from ._code import Context
from ._errors import InvalidArgumentError
from ._runtime import language_of

if TYPE_CHECKING:
    from ._options import RuntimeName


class Contexts:
    """The contexts of a sandbox, as `Sandbox.contexts`.

    A context has its own globals and working directory. The context `default` exists in
    each sandbox: scripts and `Sandbox.run` use its globals as well. Contexts are part of
    the interpreter, so forks and snapshots have them, too.
    """

    def __init__(self, native: _native.Sandbox, runtime: RuntimeName) -> None:
        self._native = native
        self._runtime = runtime

    async def create(self, language: str | None = None, *, cwd: str | None = None) -> Context:
        """Creates a context.

        `language` is that of the sandbox, and `cwd` an existing directory of the sandbox.
        A JavaScript sandbox has no working directories.
        """
        _optional_text("language", language)
        _optional_text("cwd", cwd)
        own = language_of(self._runtime)
        is_own = language == own or (own == "javascript" and language == "js")
        if language is not None and not is_own:
            raise InvalidArgumentError(
                f"this sandbox runs {own}, not `{language}`: create a sandbox of another runtime"
            )
        described = await call(
            lambda loop, done: _native.create_context(self._native, cwd, loop, done)
        )
        return Context(*described)

    async def list(self) -> builtins.list[Context]:
        """Returns the contexts."""
        found = await call(lambda loop, done: _native.contexts(self._native, loop, done))
        return [Context(*described) for described in found]

    async def restart(self, context: str | Context) -> Context:
        """Removes everything that code has defined in a context, and counts from 1 again."""
        name = context_id(context)
        await call(lambda loop, done: _native.restart_context(self._native, name, loop, done))
        return next(each for each in await self.list() if each.id == name)

    async def interrupt(self, context: str | Context) -> bool:
        """Interrupts the code of a context, and reports whether any runs.

        `Sandbox.interrupt` describes what happens to it.
        """
        return _native.interrupt(self._native, context_id(context))

    async def remove(self, context: str | Context) -> None:
        """Removes a context. The context `default` cannot be removed."""
        name = context_id(context)
        await call(lambda loop, done: _native.remove_context(self._native, name, loop, done))


def context_id(context: object) -> str:
    """Returns the id of a context that was given as such or by its id."""
    if isinstance(context, Context):
        return context.id
    if isinstance(context, str):
        return context
    raise InvalidArgumentError(f"context is {context!r}: give a Context or its id")


def _optional_text(option: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(f"{option} is {value!r}: give a string")
