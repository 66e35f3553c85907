"""Cells of untrusted Python code, with tools of the embedding program as functions.

The adapters share this module. A session is one sandbox, in which `_guest.py` runs the cells.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .._errors import BusyError, InvalidArgumentError, IsolaError, LimitError
from .._runtime import language_of
from .._template import SandboxTemplate, build_template
from ._values import References, decode, encode

if TYPE_CHECKING:
    from .._code import Result
    from .._http import HttpHandler
    from .._options import Limits, MountConfig
    from .._sandbox import Sandbox

_T = TypeVar("_T")

MAX_TOOL_THREADS = 32
"""The number of threads on which the tools of a session run at once."""

_LOAD = """
import sys, types
def _load(source):
    module = types.ModuleType("_isola_cells")
    sys.modules["_isola_cells"] = module
    exec(compile(source, "<isola>", "exec"), module.__dict__)
"""
_RUN = "__import__('sys').modules['_isola_cells'].cell()"


class CellOptions(TypedDict, total=False):
    """The options of a sandbox that the adapters pass on."""

    max_memory: int | None
    max_storage: int | None
    limits: Limits | None
    mounts: Sequence[MountConfig] | None
    env: Mapping[str, str] | None
    http: Literal[True] | HttpHandler | None


@dataclass(frozen=True)
class Cell:
    """A piece of code, and what it can use."""

    source: str
    tools: Sequence[str] = ()
    """The names of the functions of the embedding program."""
    final_tools: Sequence[str] = ()
    """Those that end the cell with their result."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    imports: Sequence[str] | None = None
    """The modules that it may import; `None` for all."""
    fields: Sequence[str] | None = None
    """The parameters of `SUBMIT`; `None` if there is no such function."""
    is_function: bool = False
    """True if it is the body of an `async def`, in which tools are awaited."""
    shows_text: bool = True
    """True if a value that cannot be passed is replaced by its `repr`."""


@dataclass(frozen=True)
class Outcome:
    """The end of a cell. All texts are controlled by the guest."""

    kind: Literal["value", "final", "error", "timeout", "stopped"]
    """`error` is an exception of the code, `timeout` one for the time limit; the session
    continues. `stopped` is a limit or crash that has closed the sandbox."""
    value: Any = None
    output: str = ""
    name: str = ""
    message: str = ""
    traceback: str = ""
    is_syntax: bool = False
    error: IsolaError | None = None
    raised: BaseException | None = None
    """The exception of a tool that has stopped the code, such as a `KeyboardInterrupt`. It is
    for the caller to raise, since it must not end the event loop of `isola.sync`."""

    def text(self) -> str:
        """Returns the error as a text for the model that wrote the code."""
        return self.traceback.rstrip("\n") or f"{self.name}: {self.message}"


class CellSession:
    """A sandbox for cells, which share their globals and files.

    `call_tool(name, args, kwargs)` calls a function of the embedding program. An object of
    its result that has no JSON form is kept, if `keeps_objects`, and the guest gets a
    reference to it.
    """

    def __init__(
        self,
        call_tool: Callable[[str, list[Any], dict[str, Any]], Awaitable[Any]],
        *,
        template: SandboxTemplate | None = None,
        options: CellOptions | None = None,
        keeps_objects: bool = False,
    ) -> None:
        if template is not None and not isinstance(template, SandboxTemplate):
            raise InvalidArgumentError(
                f"template is a {type(template).__name__}: give the result of build_template"
            )
        if template is not None and language_of(template.runtime) != "python":
            raise InvalidArgumentError(
                'template is of the runtime "js": give the result of build_template("python")'
            )
        self._call_tool = call_tool
        self._template = template
        self._options: CellOptions = {**(options or {})}
        self._references = References() if keeps_objects else None
        self._sandbox: Sandbox | None = None
        self._cell: Cell | None = None
        self._variables: dict[str, Any] = {}
        self._reported: Outcome | None = None
        self._final: tuple[Any] | None = None
        # An exception of a tool that is not an `Exception`, such as a `KeyboardInterrupt`.
        self._fatal: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """True if a sandbox runs, with the variables of earlier cells."""
        return self._sandbox is not None and not self._sandbox.closed

    async def start(self) -> None:
        """Creates the sandbox if there is none."""
        if self.is_open:
            return
        template = self._template or await default_template()
        sandbox = await template.instantiate(
            **self._options,
            hostcalls={
                "isola.cell": self._take_cell,
                "isola.variable": self._take_variable,
                "isola.tool": self._take_call,
                "isola.outcome": self._take_outcome,
            },
        )
        try:
            await sandbox.start()
            await sandbox.load_script(_LOAD, name="<isola>")
            await sandbox.run("_load", _GUEST)
            await sandbox.load_script("del _load, sys, types", name="<isola>")
        except BaseException:
            sandbox.close()
            raise
        self._sandbox = sandbox

    async def run(
        self, cell: Cell, *, timeout: float | None = None, cpu_timeout: float | None = None
    ) -> Outcome:
        """Runs a cell. Only failures of the host system, and of the caller, are raised."""
        if self._cell is not None:
            raise BusyError("the session is running other code: use a session for each")
        variables = {name: self._encoded(name, value) for name, value in cell.variables.items()}
        await self.start()
        sandbox = self._sandbox
        assert sandbox is not None
        self._cell, self._variables = cell, variables
        self._reported, self._final, self._fatal = None, None, None
        output: list[str] = []

        def show(result: Result) -> None:
            # The cell has called `display`.
            output.append(f"{result.text or ', '.join(result.formats())}\n")

        execution, stopped = None, None
        try:
            execution = await sandbox.run_code(
                _RUN,
                timeout=timeout,
                cpu_timeout=cpu_timeout,
                on_stdout=output.append,
                on_stderr=output.append,
                on_result=show,
            )
        except IsolaError as error:
            stopped = error
        finally:
            self._cell, self._variables = None, {}
        text = "".join(output)
        if self._fatal is not None:
            return Outcome("stopped", output=text, raised=self._fatal)
        if execution is None:
            assert stopped is not None
            kind: Literal["stopped", "error"] = "stopped" if sandbox.closed else "error"
            name = type(stopped).__name__
            return Outcome(kind, output=text, name=name, message=str(stopped), error=stopped)
        failure = execution.error
        if failure is not None:
            # The host has interrupted the code, or the code has damaged its own runner.
            timed_out = failure.name == "TimeoutError"
            return Outcome(
                "timeout" if timed_out else "error",
                output=text,
                name=failure.name,
                message=failure.value,
                traceback="" if timed_out else failure.traceback,
            )
        if self._reported is None:
            message = "the code has ended without an outcome"
            return Outcome("error", output=text, name="RuntimeError", message=message)
        return replace(self._reported, output=text)

    def close(self) -> None:
        """Closes the sandbox, from any thread. A cell that runs is stopped."""
        if self._sandbox is not None:
            self._sandbox.close()

    async def aclose(self) -> None:
        """Does the same without blocking the event loop."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.aclose()

    def _encoded(self, name: str, value: Any) -> Any:
        try:
            return encode(value, self._references)
        except (RecursionError, TypeError) as error:
            raise InvalidArgumentError(f"the variable {name!r}: {error}") from None

    # The payloads of the functions below come from the guest, and are untrusted.

    def _current(self) -> Cell:
        if self._cell is None:
            raise RuntimeError("no cell runs")
        return self._cell

    async def _take_cell(self, payload: object) -> dict[str, Any]:
        cell = self._current()
        return {
            "source": cell.source,
            "tools": list(cell.tools),
            "variables": list(cell.variables),
            "imports": None if cell.imports is None else list(cell.imports),
            "fields": None if cell.fields is None else list(cell.fields),
            "is_function": cell.is_function,
            "shows_text": cell.shows_text,
        }

    async def _take_variable(self, payload: object) -> Any:
        if not isinstance(payload, str) or payload not in self._variables:
            raise LookupError("the variable does not exist")
        return self._variables[payload]

    async def _take_call(self, payload: object) -> dict[str, Any]:
        cell = self._current()
        try:
            name, args, kwargs = _checked_call(payload)
            if name not in cell.tools:
                raise LookupError(f"the tool {name!r:.100} does not exist")
            args = [decode(value, self._references) for value in args]
            kwargs = {key: decode(value, self._references) for key, value in kwargs.items()}
            result = await self._call_tool(name, args, kwargs)
            if name in cell.final_tools:
                self._final = (result,)
                return {"is_final": True}
            return {"value": encode(result, self._references)}
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return {"error": {"type": type(error).__name__, "message": str(error)}}
        except BaseException as error:
            # Raised by the caller of the cell. It must not end the event loop.
            self._fatal = error
            self.close()
            return {"error": {"type": "RuntimeError", "message": "the host has stopped the code"}}

    async def _take_outcome(self, payload: object) -> None:
        self._reported = self._outcome(self._current(), payload)

    def _outcome(self, cell: Cell, payload: object) -> Outcome:
        parts = payload if isinstance(payload, dict) else {}
        kind = parts.get("kind")
        if kind == "error":
            return Outcome(
                "error",
                name=str(parts.get("name", "")),
                message=str(parts.get("message", "")),
                traceback=str(parts.get("traceback", "")),
                is_syntax=parts.get("is_syntax") is True,
            )
        try:
            if kind == "final" and self._final is not None:
                return Outcome("final", self._final[0])
            # Only `SUBMIT` has a value. The answer of a tool is what the tool has returned, so
            # that code cannot avoid the checks of the tool.
            if kind == "final" and "value" in parts and cell.fields is not None:
                return Outcome("final", decode(parts["value"], self._references))
            if kind == "value" and isinstance(parts.get("text"), str):
                return Outcome("value", parts["text"])
            if kind == "value":
                return Outcome("value", decode(parts.get("value"), self._references))
        except (RecursionError, ValueError) as error:
            return Outcome("error", name="ValueError", message=str(error))
        return Outcome("error", name="RuntimeError", message="the code has no valid outcome")


class ToolThreads:
    """Runs functions that block on threads of their own.

    A function cannot be stopped: when its call is cancelled, it continues on its thread, and
    its result is dropped.
    """

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_TOOL_THREADS)

    async def run(self, function: Callable[[], _T]) -> _T:
        """Runs a function with the context variables of the caller."""
        loop = asyncio.get_running_loop()
        await self._slots.acquire()
        future: asyncio.Future[tuple[_T | None, BaseException | None]] = loop.create_future()
        context = contextvars.copy_context()

        def finish(result: _T | None, error: BaseException | None) -> None:
            self._slots.release()
            if not future.done():
                future.set_result((result, error))

        def work() -> None:
            result, failure = None, None
            try:
                result = context.run(function)
            except BaseException as error:
                failure = error
            try:
                loop.call_soon_threadsafe(finish, result, failure)
            except RuntimeError:
                # The event loop is closed.
                pass

        try:
            threading.Thread(target=work, name="isola-tool", daemon=True).start()
        except BaseException:
            self._slots.release()
            raise
        result, failure = await future
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]


def advice(error: IsolaError) -> str:
    """Returns what the author of code can do about a limit that stopped it."""
    code = error.code if isinstance(error, LimitError) else ""
    return _ADVICE.get(code, "Use another approach")


_ADVICE = {
    "cpu_time_limit": "Do less work at once, and check that loops end",
    "wall_time_limit": "Do less at once, and do not wait for long",
    "memory_limit": "Keep less in memory at once",
    "output_limit": "Print less",
    "handle_limit": "Close files and cancel tasks that are no longer used",
    "recursion_limit": "Use a loop instead of recursion",
}

_GUEST = Path(__file__).with_name("_guest.py").read_text(encoding="utf-8")

_default: SandboxTemplate | None = None


async def default_template() -> SandboxTemplate:
    """Returns the template of adapters that were given none. It is built once."""
    global _default
    if _default is None:
        _default = await build_template("python")
    return _default


def _checked_call(payload: object) -> tuple[str, list[Any], dict[str, Any]]:
    parts = payload if isinstance(payload, dict) else {}
    name, args, kwargs = parts.get("name"), parts.get("args"), parts.get("kwargs")
    if isinstance(name, str) and isinstance(args, list) and isinstance(kwargs, dict):
        return name, args, kwargs
    raise ValueError("the call of a tool has no name, args and kwargs")
