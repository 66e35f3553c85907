"""A sandbox for the code mode of FastMCP.

    from fastmcp import FastMCP
    from fastmcp.experimental.transforms.code_mode import CodeMode
    from isola.integrations.fastmcp import IsolaSandboxProvider

    server = FastMCP("tools", transforms=[CodeMode(sandbox_provider=IsolaSandboxProvider())])

The code of a model runs in a sandbox of its own, and reaches nothing but the tools of the
server, through `call_tool`.
"""

from __future__ import annotations

import asyncio
import inspect
import keyword
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

try:
    import anyio
    from fastmcp.exceptions import ToolError
except ImportError as error:
    raise ImportError(
        'isola.integrations.fastmcp needs FastMCP 4.2 or newer: pip install "isola[fastmcp]"'
    ) from error

from .._bridge import close
from .._errors import InvalidArgumentError
from .._options import seconds
from ._cells import Cell, CellSession, Outcome, advice

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._template import SandboxTemplate
    from ._cells import CellOptions

__all__ = ["IsolaSandboxProvider"]


class IsolaSandboxProvider:
    """A `SandboxProvider` that runs each piece of code in its own sandbox of isola.

    Without a `template` one is built when it is first needed. `timeout` limits the wall time
    of one piece of code, calls of tools included, and `cpu_timeout` its CPU time, both in
    seconds. The other options are those of a sandbox. A provider can be used by any number
    of requests at once.
    """

    def __init__(
        self,
        template: SandboxTemplate | None = None,
        *,
        timeout: float | None = 300.0,
        cpu_timeout: float | None = 30.0,
        **options: Unpack[CellOptions],
    ) -> None:
        self._template = template
        self._timeout = seconds("timeout", timeout)
        self._cpu_timeout = seconds("cpu_timeout", cpu_timeout)
        self._options = options
        # Fails early if an option is invalid.
        self._session(_Functions({}))

    async def run(
        self,
        code: str,
        *,
        inputs: dict[str, Any] | None = None,
        external_functions: dict[str, Callable[..., Any]] | None = None,
    ) -> Any:
        """Runs code as the body of an `async def`, and returns what it returns.

        Without a `return` that is the value of its last expression, or what it has printed if
        there is no value. `inputs` are variables of the code, and `external_functions` are
        functions that it awaits. An error of the code is a `ToolError` for the model.

        When the task that awaits it is cancelled, the guest and the functions are stopped.
        """
        if not isinstance(code, str):
            raise InvalidArgumentError(f"code is a {type(code).__name__}: give a string")
        functions = _Functions(external_functions or {})
        for name in [*functions.by_name, *(inputs or {})]:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise InvalidArgumentError(
                    f"{name!r} is not a name of a Python variable: rename the input or function"
                )
        cell = Cell(
            code,
            tools=list(functions.by_name),
            variables=inputs or {},
            is_function=True,
            shows_text=False,
        )
        session = self._session(functions)
        try:
            outcome = await session.run(cell, timeout=self._timeout, cpu_timeout=self._cpu_timeout)
        finally:
            # Also if a scope of anyio is cancelled, as for a request whose client is gone.
            with anyio.CancelScope(shield=True):
                await close(_end(session, functions))
        if outcome.raised is not None:
            raise outcome.raised
        if outcome.kind != "value":
            raise ToolError(self._message(outcome))
        if outcome.value is None and outcome.output:
            return outcome.output
        return outcome.value

    def _session(self, functions: _Functions) -> CellSession:
        return CellSession(functions.call, template=self._template, options=self._options)

    def _message(self, outcome: Outcome) -> str:
        if outcome.kind == "timeout":
            message = f"The code took longer than {self._timeout:g} s, and was stopped."
        elif outcome.kind == "stopped" and outcome.error is not None:
            message = f"The code was stopped: {outcome.error}. {advice(outcome.error)}."
        else:
            message = f"The code failed:\n{outcome.text()}"
        if outcome.output:
            message += f"\nIt had printed:\n{_end_of(outcome.output)}"
        return message


MAX_CLEANUP_SECONDS = 10.0
"""The time that cancelled functions have for their `finally` blocks."""


class _Functions:
    """The functions of one piece of code, and the tasks in which they run."""

    def __init__(self, by_name: dict[str, Callable[..., Any]]) -> None:
        self.by_name = by_name
        self._tasks: set[asyncio.Task[Any]] = set()

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            result = self.by_name[name](*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
        finally:
            self._tasks.discard(task)

    async def aclose(self) -> None:
        """Waits for the `finally` blocks of functions, which the end of the code has cancelled."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=MAX_CLEANUP_SECONDS)
        for task in pending:
            task.cancel()


async def _end(session: CellSession, functions: _Functions) -> None:
    session.close()
    await functions.aclose()
    await session.aclose()


MAX_SHOWN_OUTPUT_CHARS = 4_000
"""The number of characters of the output in an error."""


def _end_of(output: str) -> str:
    if len(output) <= MAX_SHOWN_OUTPUT_CHARS:
        return output
    return f"[...]{output[-MAX_SHOWN_OUTPUT_CHARS:]}"
