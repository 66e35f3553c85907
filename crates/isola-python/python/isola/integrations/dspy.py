"""A code interpreter for DSPy: `RLM`, `ProgramOfThought`, `CodeAct` and `Flex`.

    import dspy
    from isola.integrations.dspy import IsolaInterpreter

    dspy.configure(interpreter_factory=IsolaInterpreter)

The code of a model runs in a sandbox; the tools run here, with what they can reach.
"""

from __future__ import annotations

import asyncio
import inspect
import keyword
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

try:
    from dspy.primitives.code_interpreter import (
        CodeExecutionError,
        CodeInterpreterError,
        FinalOutput,
    )
    from dspy.utils.callback import BaseCallback, with_callbacks
    from pydantic_core import PydanticSerializationError, to_jsonable_python
except ImportError as error:
    raise ImportError(
        'isola.integrations.dspy needs DSPy 3.4 or newer: pip install "isola[dspy]"'
    ) from error

from .._blocking import run as wait_for
from .._errors import IsolaError
from .._options import Limits, limits_of, seconds
from ._cells import Cell, CellSession, Outcome, ToolThreads, advice

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .._template import SandboxTemplate
    from ._cells import CellOptions

__all__ = ["IsolaInterpreter"]

MAX_MEMORY = 512 << 20
"""The default size of a sandbox in bytes, for long texts in variables."""

MAX_VALUE_SIZE = 64 << 20
"""The default size of one variable in bytes, as JSON."""

MAX_HELD_MEMORY = 128 << 20
"""The default size in bytes of what the host holds for the sandbox, such as a variable."""

CPU_GRACE = 5.0
"""The seconds of CPU time beyond `timeout` after which code is stopped that does not end
when it is interrupted."""

_RESERVED = frozenset({"SUBMIT", "__builtins__"})


class IsolaInterpreter:
    """A `CodeInterpreter` that runs code in a sandbox of isola.

    Code that takes longer than `timeout` seconds, tools included, is interrupted: a
    `CodeExecutionError`, after which the session continues. Beyond another limit the session
    ends: a `CodeInterpreterError`. Without a `template` one is built when it is first needed.
    The other options are those of a sandbox.

    The class is an `interpreter_factory`. For other options use a function, such as
    `lambda: IsolaInterpreter(timeout=5)`.
    """

    execution_instructions = (
        "Python 3.14 runs in a WebAssembly sandbox. State persists across executions. The "
        "standard library is available; threads, subprocesses, sockets and packages with native "
        "code, such as numpy, are not. Files are in memory and private. There is no network."
    )
    _data_instructions = (
        "Python 3.14 runs in a WebAssembly sandbox. State persists across executions. The "
        "standard library, numpy, pandas and other packages for data are available; threads, "
        "subprocesses, sockets and other packages with native code are not. Files are in memory "
        "and private. There is no network."
    )

    def __init__(
        self,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        output_fields: Sequence[dict[str, Any]] | None = None,
        *,
        timeout: float | None = 60.0,
        cpu_timeout: float | None = None,
        template: SandboxTemplate | None = None,
        callbacks: list[BaseCallback] | None = None,
        **options: Unpack[CellOptions],
    ) -> None:
        self.tools: dict[str, Callable[..., Any]] = dict(tools or {})
        self.output_fields = None if output_fields is None else list(output_fields)
        self.callbacks = list(callbacks or [])
        _check_names("tool", self.tools)
        self._timeout = seconds("timeout", timeout)
        self._cpu_timeout = seconds("cpu_timeout", cpu_timeout)
        if self._cpu_timeout is None and self._timeout is not None:
            self._cpu_timeout = self._timeout + CPU_GRACE
        limits = limits_of(options.get("limits"), options.get("max_memory"), None)
        if template is None:
            limits = _with_defaults(limits)
        options["limits"] = limits
        options["max_memory"] = None
        if template is not None and template.runtime == "python-data":
            self.execution_instructions = self._data_instructions
        self._threads: ToolThreads | None = None
        self._session = CellSession(self._call_tool, template=template, options=options)
        self._lock = threading.Lock()
        self._started = False
        self._end: str | None = None

    @with_callbacks
    def start(self) -> None:
        """Creates the sandbox, if there is none."""
        self._check_active()
        if self._started:
            return
        try:
            wait_for(self._session.start())
        except IsolaError as error:
            raise CodeInterpreterError(f"The sandbox cannot be created: {error}") from error
        self._started = True
        if self._end is not None:
            self._session.close()
            self._check_active()

    @with_callbacks
    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Runs code, and returns the value of its last expression, or else its output.

        After `SUBMIT` it returns a `FinalOutput`. `variables` become globals of the code.
        """
        if not self._lock.acquire(blocking=False):
            raise CodeInterpreterError(
                "The interpreter is running other code: create one for each thread, and do not "
                "call it from one of its tools."
            )
        try:
            return self._execute(code, variables or {})
        finally:
            self._lock.release()

    @with_callbacks
    def invoke_tool(self, tool_name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls a tool for the code."""
        if tool_name not in self.tools:
            raise CodeInterpreterError(f"Unknown tool: {tool_name}")
        tool = self.tools[tool_name]
        args, kwargs = _by_name(tool, args, kwargs)
        result = tool(*args, **kwargs)
        return asyncio.run(_await(result)) if inspect.isawaitable(result) else result

    @with_callbacks
    def shutdown(self) -> None:
        """Closes the sandbox, and stops the code that runs."""
        self._end = self._end or "it was shut down"
        self._session.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def __call__(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        return self.execute(code, variables)

    def _execute(self, code: str, variables: dict[str, Any]) -> Any:
        self._check_active()
        if not isinstance(code, str):
            raise CodeInterpreterError(f"code is a {type(code).__name__}: give a string")
        tools = dict(self.tools)
        _check_names("tool", tools)
        _check_names("variable", variables)
        shared = sorted(tools.keys() & variables.keys())
        if shared:
            raise CodeInterpreterError(f"variables have the names of tools: {', '.join(shared)}")
        cell = Cell(
            code,
            tools=list(tools),
            variables={name: _jsonable(name, value) for name, value in variables.items()},
            fields=_field_names(self.output_fields),
        )
        if not self._started:
            self.start()
        try:
            outcome = wait_for(
                self._session.run(cell, timeout=self._timeout, cpu_timeout=self._cpu_timeout)
            )
            if outcome.raised is not None:
                raise outcome.raised
        except IsolaError as error:
            self._end = str(error)
            raise CodeInterpreterError(f"The code cannot be run: {error}") from error
        except BaseException:
            # A tool was interrupted, or this call.
            self._end = "its code was stopped half-way"
            self._session.close()
            raise
        if outcome.kind in ("value", "final"):
            return self._result(outcome)
        raise self._error(outcome)

    def _result(self, outcome: Outcome) -> Any:
        try:
            value = to_jsonable_python(outcome.value, fallback=repr, inf_nan_mode="constants")
        except (PydanticSerializationError, UnicodeDecodeError):
            # `bytes` that are no text.
            value = repr(outcome.value)
        if outcome.kind == "final":
            return FinalOutput(value)
        return value if value is not None else outcome.output.rstrip("\n") or None

    def _error(self, outcome: Outcome) -> Exception:
        if outcome.kind == "stopped" and outcome.error is not None:
            self._end = str(outcome.error)
            return CodeInterpreterError(
                f"The code was stopped, and the session has ended: {outcome.error}. "
                f"{advice(outcome.error)}, or raise the limit of IsolaInterpreter."
            )
        printed = outcome.output.rstrip("\n")
        after = f"\nIt had printed:\n{printed}" if printed else ""
        if outcome.kind == "timeout":
            if not self._session.is_open:
                self._end = "its code did not end when it was interrupted"
                return CodeInterpreterError(f"The session has ended: {self._end}.")
            return CodeExecutionError(
                f"TimeoutError: the code took longer than {self._timeout:g} s, and was "
                f"interrupted. The variables are kept.{after}"
            )
        if outcome.is_syntax:
            return SyntaxError(f"Invalid Python syntax: {outcome.message}")
        return CodeExecutionError(f"{outcome.name}: {outcome.message}\n{outcome.text()}{after}")

    def _check_active(self) -> None:
        if self._end is not None:
            raise CodeInterpreterError(
                f"The session has ended: {self._end}. Create a new interpreter."
            )

    async def _call_tool(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if self._threads is None:
            self._threads = ToolThreads()
        result = await self._threads.run(lambda: self.invoke_tool(name, args, kwargs))
        return _jsonable(f"the result of {name}", result)


def _by_name(
    tool: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Passes arguments by name where possible: the tools of DSPy's modules take no others."""
    if not args:
        return args, kwargs
    try:
        signature = inspect.signature(tool)
    except ValueError:
        # Some functions that are written in C have none.
        return args, kwargs
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if inspect.Parameter.POSITIONAL_ONLY in kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
        return args, kwargs
    bound = signature.bind(*args, **kwargs)
    return [], bound.kwargs | dict(zip(signature.parameters, bound.args))


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _with_defaults(limits: Limits) -> Limits:
    return replace(
        limits,
        max_memory=limits.max_memory or MAX_MEMORY,
        max_value_size=limits.max_value_size or MAX_VALUE_SIZE,
        max_held_memory=limits.max_held_memory or MAX_HELD_MEMORY,
    )


def _jsonable(name: str, value: Any) -> Any:
    """Returns the JSON form of a variable or result: models and dataclasses are dictionaries."""
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except (PydanticSerializationError, UnicodeDecodeError, ValueError) as error:
        raise CodeInterpreterError(
            f"{name}: a value of type {type(value).__name__} has no form in JSON: {error}"
        ) from None


def _check_names(kind: str, names: Mapping[str, object]) -> None:
    for name in names:
        if (
            not isinstance(name, str)
            or not name.isidentifier()
            or keyword.iskeyword(name)
            or name in _RESERVED
        ):
            raise CodeInterpreterError(
                f"{name!r} cannot be the name of a {kind}: use an identifier of Python that is "
                "not reserved"
            )


def _field_names(fields: list[dict[str, Any]] | None) -> list[str]:
    """Returns the parameters of `SUBMIT`."""
    if fields is None:
        return ["output"]
    names = [field.get("name") if isinstance(field, dict) else None for field in fields]
    checked = [name for name in names if isinstance(name, str) and name.isidentifier()]
    if len(checked) != len(names) or len(set(checked)) != len(checked):
        raise CodeInterpreterError("output_fields need names that are different identifiers")
    return checked
