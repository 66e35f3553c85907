"""An executor for the `CodeAgent` of smolagents.

    from smolagents import CodeAgent
    from isola.integrations.smolagents import IsolaPythonExecutor

    with IsolaPythonExecutor() as executor:
        agent = CodeAgent(tools=[...], model=..., executor=executor)
        agent.run("...")

The code of the agent runs in a sandbox; the tools run here, with what they can reach.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

try:
    from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor
    from smolagents.utils import BASE_BUILTIN_MODULES, truncate_content
except ImportError as error:
    raise ImportError(
        'isola.integrations.smolagents needs smolagents: pip install "isola[smolagents]"'
    ) from error

from .._blocking import run as wait_for
from .._errors import InvalidArgumentError
from .._options import seconds
from ._cells import Cell, CellSession, Outcome, ToolThreads, advice

if TYPE_CHECKING:
    from types import TracebackType

    from smolagents.tools import Tool
    from typing_extensions import Self, Unpack

    from .._template import SandboxTemplate
    from ._cells import CellOptions

__all__ = ["IsolaPythonExecutor"]

MAX_PRINTED_CHARS = 50_000
"""The default number of characters of output that an agent sees of one step."""

FINAL_ANSWER = "final_answer"
"""The tool that ends a run of an agent."""

CPU_GRACE = 5.0
"""The seconds of CPU time beyond `timeout_seconds` after which code is stopped that does not
end when it is interrupted."""


class IsolaPythonExecutor(PythonExecutor):
    """A `PythonExecutor` that runs the steps of an agent in one sandbox of isola.

    The steps share their variables and files. With `additional_authorized_imports` the code
    may import only these modules and those that smolagents always allows, which all have to be
    in the sandbox; by default it may import everything that the sandbox has. A step is
    interrupted after `timeout_seconds`, tools included, and keeps its variables. Beyond another
    limit the sandbox is closed, and the next step begins in a new one, which has the tools and
    the variables of the agent.

    Without a `template` one is built when it is first needed. The other options are those of
    a sandbox. Each agent needs its own executor.
    """

    def __init__(
        self,
        additional_authorized_imports: Sequence[str] | None = None,
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = 30.0,
        *,
        template: SandboxTemplate | None = None,
        cpu_timeout: float | None = None,
        **options: Unpack[CellOptions],
    ) -> None:
        if isinstance(additional_authorized_imports, str):
            raise InvalidArgumentError(
                "additional_authorized_imports is a string: give a list of names of modules"
            )
        self.authorized_imports: list[str] | None = None
        if additional_authorized_imports is not None:
            self.authorized_imports = sorted(
                {*BASE_BUILTIN_MODULES, *additional_authorized_imports}
            )
        self.max_print_outputs_length = max_print_outputs_length or MAX_PRINTED_CHARS
        self.timeout_seconds = seconds("timeout_seconds", timeout_seconds)
        self._cpu_timeout = seconds("cpu_timeout", cpu_timeout)
        if self._cpu_timeout is None and self.timeout_seconds is not None:
            self._cpu_timeout = self.timeout_seconds + CPU_GRACE
        self._functions: dict[str, Callable[..., Any]] = dict(additional_functions or {})
        self._tools: dict[str, Callable[..., Any]] = {}
        self._variables: dict[str, Any] = {}
        # The variables that the sandbox does not have yet.
        self._unsent: dict[str, Any] = {}
        # The agent shows the output of a step that failed from here.
        self.state: dict[str, Any] = {"__name__": "__main__"}
        self._threads: ToolThreads | None = None
        self._template, self._options = template, options
        self._session = self._new_session()
        self._lock = threading.Lock()
        self._closed = False
        self._check_modules()

    def send_tools(self, tools: dict[str, Tool]) -> None:
        """Sets the tools, and managed agents, that the code can call as functions."""
        self._tools = {**tools, **self._functions}

    def send_variables(self, variables: dict[str, Any]) -> None:
        """Sets variables of the code. They are sent with the next step.

        A value that has no equal in the sandbox, such as an image, is there an object that
        can only be passed to tools.
        """
        for name in variables:
            if not isinstance(name, str):
                raise InvalidArgumentError(f"the name of the variable {name!r} is not a string")
        self._variables.update(variables)
        self._unsent.update(variables)

    def __call__(self, code_action: str) -> CodeOutput:
        """Runs a step. An error of the code is an `InterpreterError` for the agent."""
        if not self._lock.acquire(blocking=False):
            raise InterpreterError(
                "The executor is running other code: give each agent its own executor."
            )
        try:
            return self._execute(code_action)
        finally:
            self._lock.release()

    def cleanup(self) -> None:
        """Closes the sandbox, and stops the step that runs. The agent calls it, too."""
        self._closed = True
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()

    def _execute(self, source: str) -> CodeOutput:
        self.state["_print_outputs"] = ""
        if self._closed:
            raise InterpreterError("The executor is closed: create another one.")
        tools = {**self._functions, **self._tools}
        if not self._session.is_open:
            self._start()
        if self._closed:
            self._session.close()
            raise InterpreterError("The executor was closed.")
        cell = Cell(
            source,
            tools=list(tools),
            final_tools=[FINAL_ANSWER] if FINAL_ANSWER in self._tools else [],
            variables=self._unsent,
            imports=self.authorized_imports,
        )
        try:
            outcome = wait_for(
                self._session.run(cell, timeout=self.timeout_seconds, cpu_timeout=self._cpu_timeout)
            )
        except BaseException:
            # Ctrl-C, for example. The session still stops its code: the next step has another.
            self._session.close()
            self._session = self._new_session()
            raise
        if outcome.raised is not None:
            raise outcome.raised
        if self._session.is_open:
            self._unsent = {}
        logs = truncate_content(outcome.output, max_length=self.max_print_outputs_length)
        self.state["_print_outputs"] = logs
        if outcome.kind in ("value", "final"):
            return CodeOutput(outcome.value, logs, is_final_answer=outcome.kind == "final")
        raise InterpreterError(self._message(outcome))

    def _new_session(self) -> CellSession:
        return CellSession(
            self._call_tool, template=self._template, options=self._options, keeps_objects=True
        )

    def _start(self) -> None:
        """Creates a sandbox, with the variables of the agent."""
        wait_for(self._session.start())
        self._unsent = dict(self._variables)

    def _check_modules(self) -> None:
        """Checks that the sandbox has the authorized modules, as smolagents does."""
        names = {name.partition(".")[0] for name in self.authorized_imports or ()} - {"*"}
        if not names:
            return
        source = (
            "import importlib.util as _util\n"
            f"[name for name in {sorted(names)!r} if _util.find_spec(name) is None]"
        )
        outcome = wait_for(self._session.run(Cell(source)))
        if outcome.kind != "value" or outcome.value:
            self._session.close()
            missing = ", ".join(map(str, outcome.value)) if outcome.kind == "value" else "?"
            raise InterpreterError(
                f"Non-installed authorized modules: {missing}. The sandbox has the standard "
                "library, and packages without native code that are mounted: remove them from "
                "additional_authorized_imports, or mount them."
            )

    def _message(self, outcome: Outcome) -> str:
        lost = "The variables that earlier code has defined are lost."
        if outcome.kind == "timeout":
            return (
                f"Code execution exceeded the maximum execution time of {self.timeout_seconds:g} "
                f"seconds. {'The variables are kept.' if self._session.is_open else lost}"
            )
        if outcome.kind == "stopped" and outcome.error is not None:
            return f"Code execution was stopped: {outcome.error}. {advice(outcome.error)}. {lost}"
        return f"Code execution failed due to: {outcome.name}: {outcome.message}\n{outcome.text()}"

    async def _call_tool(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        tool = self._tools.get(name) or self._functions[name]
        if self._threads is None:
            self._threads = ToolThreads()
        return await self._threads.run(lambda: _call(tool, args, kwargs))


def _call(tool: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Calls a tool, on a thread of its own, and waits for an asynchronous one."""
    result = tool(*args, **kwargs)
    return asyncio.run(_await(result)) if inspect.isawaitable(result) else result


async def _await(awaitable: Any) -> Any:
    return await awaitable
