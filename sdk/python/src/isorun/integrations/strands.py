"""A sandbox of Strands Agents on an isorun server.

    from isorun.integrations.strands import IsorunSandbox
    from strands import Agent

    with IsorunSandbox("python:3.12") as sandbox:
        agent = Agent(sandbox=sandbox)
        agent("Which prime numbers are below 100? Write a program.")

`docs/integrations/strands.md` describes it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any

from .. import _errors
from .._async_sandbox import AsyncSandbox
from .._sandbox import Sandbox
from .._types import ExecResult
from ._anyloop import AnyLoopSandbox, absolute, file_errors, noted

try:
    from strands import SandboxPathNotFoundError, SandboxTimeoutError
    from strands.sandbox import (
        LANGUAGE_PATTERN,
        ExecutionResult,
        FileInfo,
        PosixShellSandbox,
        StreamChunk,
    )
    from strands.sandbox.posix_shell import validate_env_keys
    from strands.types.tools import AgentTool
    from strands.vended_tools.file_editor import make_file_editor
    from strands.vended_tools.file_editor.file_editor import DEFAULT_FILE_EDITOR_DESCRIPTION
    from strands.vended_tools.shell import make_shell
    from strands.vended_tools.shell.types import SANDBOX_SHELL_DESCRIPTION
except ImportError as error:
    raise ImportError(
        "isorun.integrations.strands needs strands-agents 1.62 or newer: "
        'run `pip install "isorun[strands]"`'
    ) from error

# The exit code of a shell for a command that cannot be started.
NOT_STARTED = 127

# Prints the names of the directories among the entries of the working directory, each with a
# slash; a slash; and the size and name of each entry. No name contains a slash. Only `stat` is
# not a part of the shell, and without it the sizes are unknown.
LIST_SCRIPT = """
printf /
for entry in * .[!.]* ..?*; do if [ -d "$entry" ]; then printf %s/ "$entry"; fi; done
printf /
stat -L -c '%s/%n/' -- * .[!.]* ..?* 2>/dev/null
exit 0
"""


class IsorunSandbox(PosixShellSandbox):
    """A Linux sandbox on an isorun server, for the agents of Strands.

    As a context manager, with `with` or `async with`, it is created on entry and destroyed on
    exit. It can be used from any thread and event loop.
    """

    def __init__(
        self,
        sandbox: str | Sandbox | AsyncSandbox,
        *,
        working_dir: str | None = None,
        max_output: int = 1 << 20,
        max_file_bytes: int = 64 << 20,
    ) -> None:
        """
        :param sandbox: an image; or a `Sandbox` or `AsyncSandbox` that is not created, for its
            options; or one that is created, which is then not destroyed here.
        :param working_dir: the directory of commands and of relative paths, an absolute path,
            which is created if it does not exist; by default that of the image.
        :param max_output: the number of characters of each stream that the result of a command
            contains at most.
        :param max_file_bytes: the size of a file that can be read, in bytes.
        """
        if working_dir is not None and not working_dir.startswith("/"):
            raise ValueError(f"working_dir is {working_dir!r}: give an absolute path")
        self.working_dir = working_dir
        self.max_output = max_output
        self.max_file_bytes = max_file_bytes
        self._sandbox = AnyLoopSandbox(sandbox, working_dir)
        self._image_dir: str | None = None

    @property
    def id(self) -> str | None:
        """The id of the sandbox on the server, while it is in use."""
        return self._sandbox.id

    def create(self) -> None:
        """Creates the sandbox, unless it is created."""
        self._sandbox.create()

    def destroy(self) -> None:
        """Destroys the sandbox, unless it was created before this object."""
        self._sandbox.destroy()

    def __enter__(self) -> IsorunSandbox:
        self.create()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _unless(error):
            self.destroy()

    async def __aenter__(self) -> IsorunSandbox:
        await self._sandbox.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _unless(error):
            await self._sandbox.stop()

    async def execute_streaming(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """Runs a command line of the shell, and yields its output, then its result.

        :raises SandboxTimeoutError: the command exceeded the timeout and was killed.
        :raises IsorunError: the server or the sandbox failed, or cannot be reached.
        """
        async with aclosing(self._run(command, timeout, cwd, env, None)) as items:
            async for item in items:
                yield item

    async def execute_code_streaming(
        self,
        code: str,
        language: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """Runs a program, which the interpreter `language` reads from its standard input, and
        yields its output, then its result."""
        if not LANGUAGE_PATTERN.fullmatch(language):
            raise ValueError(f"language is {language!r}: give the name of an interpreter")
        async with aclosing(self._run(language, timeout, cwd, env, code)) as items:
            async for item in items:
                yield item

    async def execute(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> ExecutionResult:
        """Runs a command line of the shell to its end."""
        return await self._last(self._run(command, timeout, cwd, env, None))

    async def execute_code(
        self,
        code: str,
        language: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> ExecutionResult:
        """Runs a program to its end, as `execute_code_streaming` does."""
        return await self._last(
            self.execute_code_streaming(code, language, timeout=timeout, cwd=cwd, env=env)
        )

    async def read_file(self, path: str, **kwargs: Any) -> bytes:
        """Reads a file.

        :raises FileNotFoundError: it does not exist.
        :raises OSError: it cannot be read, or has more than `max_file_bytes`.
        """
        with file_errors():
            return await self._sandbox.read(await self._absolute(path), self.max_file_bytes)

    async def write_file(self, path: str, content: bytes, **kwargs: Any) -> None:
        """Writes a file, and creates its parent directories. An existing file keeps its
        permissions.

        :raises OSError: it cannot be written.
        """
        with file_errors():
            await self._sandbox.write(await self._absolute(path), content)

    async def remove_file(self, path: str, **kwargs: Any) -> None:
        """Removes a file.

        :raises FileNotFoundError: it does not exist.
        :raises OSError: it cannot be removed: it is a directory, for example.
        """
        with file_errors():
            quoted = shlex.quote(await self._absolute(path))
            # `rm -f` does not ask before it removes a file without write permission.
            script = f"[ -e {quoted} ] || [ -L {quoted} ] || exit 77; rm -f -- {quoted}"
            done = await self._sandbox.run_script(script)
        if done.exit_code == 77:
            raise FileNotFoundError(f"{path} does not exist in the sandbox")
        if done.exit_code != 0:
            raise OSError(f"{path} cannot be removed: {done.stderr.strip()}")

    async def list_files(self, path: str, **kwargs: Any) -> list[FileInfo]:
        """Lists a directory, sorted by name. `size` is None without the program `stat` in the
        image, and for a symbolic link without a target.

        :raises SandboxPathNotFoundError: it does not exist, or is not a directory.
        :raises OSError: it cannot be read.
        """
        with file_errors():
            full = await self._absolute(path)
            try:
                names = await self._sandbox.ls(full)
                listed = await self._sandbox.run_script(LIST_SCRIPT, full) if names else None
            except _errors.IsorunError as error:
                if error.kind in ("file_not_found", "file_error", "command_not_found"):
                    raise SandboxPathNotFoundError(path) from error
                raise
        if listed is None:
            return []
        # An agent sends the names to a model as UTF-8.
        texts = [
            name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names
        ]
        return _file_infos(texts, listed)

    def get_tools(self) -> list[AgentTool]:
        """Returns a shell and an editor of files, which an agent gets with this sandbox."""
        where = " The sandbox is a Linux machine of its own."
        directory = f" Working directory: {self.working_dir}." if self.working_dir else ""
        return [
            make_file_editor(
                sandbox=self,
                name="sandbox_file_editor",
                description=f"{DEFAULT_FILE_EDITOR_DESCRIPTION} Files are in a sandbox.{where}",
            ),
            make_shell(
                sandbox=self,
                name="sandbox_shell",
                description=f"{SANDBOX_SHELL_DESCRIPTION} Runs in a sandbox.{where}{directory}",
            ),
        ]

    async def _run(
        self,
        command: str,
        timeout: float | None,
        cwd: str | None,
        env: dict[str, str] | None,
        stdin: str | None,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}: give more than 0 seconds, or None")
        if env:
            validate_env_keys(env)
        directory = self.working_dir if cwd is None else await self._absolute(cwd)
        chunks = self._sandbox.exec_stream(
            command,
            max_output=self.max_output,
            timeout=timeout,
            env=env,
            cwd=directory,
            stdin=stdin,
        )
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if isinstance(chunk, ExecResult):
                        yield _execution_result(chunk)
                    else:
                        name, text = chunk
                        yield StreamChunk(text, "stdout" if name == "stdout" else "stderr")
        except _errors.IsorunTimeoutError as error:
            if error.kind != "exec_timeout":
                raise
            raise SandboxTimeoutError(timeout, error.stdout, error.stderr) from error
        except _errors.IsorunError as error:
            if error.kind != "command_not_found":
                raise
            yield ExecutionResult(NOT_STARTED, "", f"{error}\n")

    async def _last(
        self, items: AsyncGenerator[StreamChunk | ExecutionResult, None]
    ) -> ExecutionResult:
        async with aclosing(items):
            async for item in items:
                if isinstance(item, ExecutionResult):
                    return item
        raise RuntimeError("the command ended without a result")

    async def _absolute(self, path: str) -> str:
        if path.startswith("/"):
            return absolute(path, "/")
        return absolute(path, self.working_dir or await self._default_dir())

    async def _default_dir(self) -> str:
        """Returns the working directory of the image."""
        if self._image_dir is None:
            done = await self._sandbox.run_script("pwd")
            self._image_dir = done.stdout.removesuffix("\n") or "/"
        return self._image_dir


@contextmanager
def _unless(error: BaseException | None) -> Iterator[None]:
    """Ignores that the sandbox cannot be destroyed if the block itself has failed."""
    try:
        yield
    except _errors.IsorunError:
        if error is None:
            raise


def _execution_result(done: ExecResult) -> ExecutionResult:
    stderr = noted(done.stderr, done.stdout_truncated, done.stderr_truncated)
    return ExecutionResult(done.exit_code, done.stdout, stderr)


def _file_infos(names: list[str], listed: ExecResult) -> list[FileInfo]:
    directories, _, stats = listed.stdout.partition("//")
    fields = stats.split("/")
    sizes = {
        name: int(size)
        for size, name in zip(fields[::2], fields[1::2], strict=False)
        if re.fullmatch(r"\n?[0-9]{1,19}", size)
    }
    is_known = listed.exit_code == 0 and not listed.stdout_truncated
    found = set(directories.split("/"))
    return [FileInfo(name, name in found if is_known else None, sizes.get(name)) for name in names]
