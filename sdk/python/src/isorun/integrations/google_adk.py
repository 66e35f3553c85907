"""An environment of Google's Agent Development Kit on an isorun server.

    from google.adk.agents import LlmAgent
    from google.adk.tools.environment import EnvironmentToolset
    from isorun.integrations.google_adk import IsorunEnvironment

    tools = EnvironmentToolset(environment=IsorunEnvironment("python:3.12"))
    agent = LlmAgent(name="coder", model="...", tools=[tools])

`docs/integrations/google-adk.md` describes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType

from .. import _errors
from .._async_sandbox import AsyncSandbox
from .._sandbox import Sandbox
from .._types import ExecResult
from ._anyloop import AnyLoopSandbox, absolute, file_errors, noted

try:
    from google.adk.environment import BaseEnvironment, ExecutionResult
except ImportError as error:
    raise ImportError(
        "isorun.integrations.google_adk needs google-adk 2.13 or newer: "
        'run `pip install "isorun[google-adk]"`'
    ) from error

# The exit codes of `timeout` for a command that took too long, and of a shell for one that
# cannot be started.
TIMED_OUT = 124
NOT_STARTED = 127


class IsorunEnvironment(BaseEnvironment):  # type: ignore[misc, unused-ignore]
    """A Linux sandbox on an isorun server, for the agents of Google ADK.

    `initialize` creates it and `close` destroys it, which an `EnvironmentToolset` calls. It can
    be used from any thread and event loop.
    """

    def __init__(
        self,
        sandbox: str | Sandbox | AsyncSandbox,
        *,
        working_dir: str = "/workspace",
        env: Mapping[str, str] | None = None,
        max_output: int = 1 << 20,
        max_file_bytes: int = 64 << 20,
    ) -> None:
        """
        :param sandbox: an image; or a `Sandbox` or `AsyncSandbox` that is not created, for its
            options; or one that is created, which is then not destroyed here.
        :param working_dir: the directory of commands and of relative paths, an absolute path,
            which is created if it does not exist.
        :param env: environment variables of every command.
        :param max_output: the number of characters of each stream that the result of a command
            contains at most.
        :param max_file_bytes: the size of a file that can be read, in bytes.
        """
        if not working_dir.startswith("/"):
            raise ValueError(f"working_dir is {working_dir!r}: give an absolute path")
        self._working_dir = absolute(working_dir, "/")
        self._env = dict(env or {})
        self._max_output = max_output
        self._max_file_bytes = max_file_bytes
        self._sandbox = AnyLoopSandbox(sandbox, self._working_dir)

    @property
    def id(self) -> str | None:
        """The id of the sandbox on the server, while it is in use."""
        return self._sandbox.id

    @property
    def working_dir(self) -> Path:
        """The working directory, an absolute path in the sandbox."""
        return Path(self._working_dir)

    async def initialize(self) -> None:
        """Creates the sandbox, unless it is created."""
        await self._sandbox.start()
        self._is_initialized = True

    async def close(self) -> None:
        """Destroys the sandbox, unless it was created before this object."""
        await self._sandbox.stop()
        self._is_initialized = False

    async def __aenter__(self) -> IsorunEnvironment:
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except _errors.IsorunError:
            if error is None:
                raise

    async def execute(self, command: str, *, timeout: float | None = None) -> ExecutionResult:
        """Runs a command line of the shell in the working directory.

        A command that exceeds the timeout is killed; the result has its output until then, and
        the exit code 124.

        :raises IsorunError: the server or the sandbox failed, or cannot be reached.
        """
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}: give more than 0 seconds, or None")
        chunks = self._sandbox.exec_stream(
            command,
            max_output=self._max_output,
            timeout=timeout,
            env=self._env,
            cwd=self._working_dir,
        )
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if isinstance(chunk, ExecResult):
                        return _execution_result(chunk)
        except _errors.IsorunTimeoutError as error:
            if error.kind != "exec_timeout":
                raise
            return ExecutionResult(TIMED_OUT, error.stdout, error.stderr, timed_out=True)
        except _errors.IsorunError as error:
            if error.kind != "command_not_found":
                raise
            return ExecutionResult(NOT_STARTED, "", f"{error}\n")
        raise RuntimeError("the command ended without a result")

    async def read_file(self, path: str | os.PathLike[str]) -> bytes:
        """Reads a file.

        :raises FileNotFoundError: it does not exist.
        :raises OSError: it cannot be read, or has more than `max_file_bytes`.
        """
        full = absolute(_posix(path), self._working_dir)
        with file_errors():
            return await self._sandbox.read(full, self._max_file_bytes)

    async def write_file(self, path: str | os.PathLike[str], content: str | bytes) -> None:
        """Writes a file, a text as UTF-8, and creates its parent directories. An existing file
        keeps its permissions.

        :raises OSError: it cannot be written.
        """
        full = absolute(_posix(path), self._working_dir)
        data = content.encode() if isinstance(content, str) else content
        with file_errors():
            await self._sandbox.write(full, data)


def _posix(path: str | os.PathLike[str]) -> str:
    # A Path of Windows has backslashes.
    return path.as_posix() if isinstance(path, Path) else os.fspath(path)


def _execution_result(done: ExecResult) -> ExecutionResult:
    stderr = noted(done.stderr, done.stdout_truncated, done.stderr_truncated)
    return ExecutionResult(done.exit_code, done.stdout, stderr)
