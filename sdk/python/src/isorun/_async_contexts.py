"""The contexts of a sandbox: interpreters that keep their state from cell to cell."""

from __future__ import annotations

import builtins

from . import _code_protocol
from ._async_io import Transport
from ._code import Context


class AsyncContexts:
    """The contexts of a sandbox, as `sandbox.contexts`."""

    def __init__(self, transport: Transport, run: str) -> None:
        self._transport = transport
        self._run = run

    async def create(self, language: str = "python", *, cwd: str | None = None) -> Context:
        """Creates a context, with variables and a working directory of its own.

        :param language: `python`, `javascript`, or that of a Jupyter kernel of the image.
        :param cwd: the working directory; by default that of the image.
        """
        operation = _code_protocol.create_context(self._run, language, cwd)
        return await self._transport.send(operation)

    async def list(self) -> builtins.list[Context]:
        """Returns the contexts."""
        return await self._transport.send(_code_protocol.contexts(self._run))

    async def restart(self, context: str | Context) -> Context:
        """Ends the interpreter of a context, and starts another one without the variables."""
        return await self._transport.send(_code_protocol.restart_context(self._run, context))

    async def interrupt(self, context: str | Context) -> None:
        """Interrupts the cell of a context, if one runs, as Ctrl-C does."""
        await self._transport.send(_code_protocol.interrupt_context(self._run, context))

    async def remove(self, context: str | Context) -> None:
        """Removes a context, and ends its interpreter."""
        await self._transport.send(_code_protocol.remove_context(self._run, context))
