"""A backend of Deep Agents in a sandbox.

    from deepagents import create_deep_agent
    from isorun import Sandbox
    from isorun.integrations.deepagents import IsorunBackend

    with Sandbox("python:3.12") as sandbox:
        agent = create_deep_agent(model="...", backend=IsorunBackend(sandbox))

The page `docs/integrations/deepagents.md` says what maps to what.
"""

from __future__ import annotations

import posixpath
import shlex
from contextlib import AbstractAsyncContextManager

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError, IsorunTimeoutError
from .._sandbox import Sandbox
from .._types import ExecResult
from . import _files
from ._connection import attached
from ._missing import framework_missing

try:
    from deepagents.backends.protocol import (
        FILE_NOT_FOUND,
        INVALID_PATH,
        IS_DIRECTORY,
        PERMISSION_DENIED,
        ExecuteOffloadResult,
        ExecuteResponse,
        FileDownloadResponse,
        FileUploadResponse,
    )
    from deepagents.backends.sandbox import BaseSandbox
except ImportError as error:
    raise framework_missing(__name__, "deepagents", error) from error

DEFAULT_TIMEOUT = 30 * 60
"""The timeout of a command for which the agent gives none, in seconds."""

# The exit code of the command `timeout`, for a command that took too long.
_EXIT_TIMEOUT = 124
# The exit code of a shell for a command that it cannot start.
_EXIT_NOT_STARTED = 126

# Errors that the model can avoid, by another command.
_REFUSED = frozenset({"invalid_request", "command_not_found", "too_large", "sandbox_full"})


class IsorunBackend(BaseSandbox):
    """A backend whose files and commands are in a sandbox on an isorun server.

    It neither creates nor destroys the sandbox. The file tools need Python and GNU or BusyBox
    `grep` in the image.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        working_dir: str | None = None,
        timeout: int = DEFAULT_TIMEOUT,
        capture_offload: bool = True,
    ) -> None:
        """
        :param sandbox: the sandbox, which must be created.
        :param working_dir: the directory in which commands start; by default that of the image.
        :param timeout: the timeout in seconds of a command for which the agent gives none; 0 for
            no timeout.
        :param capture_offload: whether long output of a command stays in a file in the sandbox,
            of which the agent gets the beginning and the end. The image needs the programs of
            coreutils for it.
        """
        if sandbox.id is None:
            raise ValueError("the sandbox is not created: use `with`, or call create()")
        if working_dir is not None and not posixpath.isabs(working_dir):
            raise ValueError(f"working_dir is {working_dir!r}: give an absolute path")
        self._sandbox = sandbox
        self._id = sandbox.id
        self._directory = working_dir
        self._timeout = _checked(timeout)
        self._is_root: bool | None = None
        # The directories of captured output that exist.
        self._prepared: set[str] = set()
        self.enable_capture_offload = capture_offload

    @property
    def id(self) -> str:
        """The id of the sandbox."""
        return self._id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a shell command, and returns its output, in which the errors are at their place.

        :param timeout: the timeout in seconds; 0 for none.
        """
        seconds = self._timeout if timeout is None else _checked(timeout)
        try:
            return _response(
                self._sandbox.exec(_merged(command), timeout=seconds, cwd=self._directory)
            )
        except IsorunError as error:
            return _failure(error)

    async def aexecute(
        self,
        command: str,
        *,
        timeout: int | None = None,
    ) -> ExecuteResponse:
        """Runs a command as `execute` does. Cancelling the task kills the command."""
        seconds = self._timeout if timeout is None else _checked(timeout)
        async with self._attached() as sandbox:
            try:
                return _response(
                    await sandbox.exec(_merged(command), timeout=seconds, cwd=self._directory)
                )
            except IsorunError as error:
                return _failure(error)

    def execute_with_offload(
        self,
        command: str,
        capture_path: str,
        *,
        max_inline_bytes: int,
        max_capture_bytes: int | None = None,
        timeout: int | None = None,
    ) -> ExecuteOffloadResult:
        """Runs a command, and leaves long output in a file in the sandbox."""
        directory = posixpath.dirname(capture_path)
        if self.enable_capture_offload and directory not in self._prepared:
            _files.run(_make_directory(directory), self._sandbox)
            self._prepared.add(directory)
        return super().execute_with_offload(
            command,
            capture_path,
            max_inline_bytes=max_inline_bytes,
            max_capture_bytes=max_capture_bytes,
            timeout=timeout,
        )

    async def aexecute_with_offload(
        self,
        command: str,
        capture_path: str,
        *,
        max_inline_bytes: int,
        max_capture_bytes: int | None = None,
        timeout: int | None = None,
    ) -> ExecuteOffloadResult:
        """Runs a command as `execute_with_offload` does."""
        directory = posixpath.dirname(capture_path)
        if self.enable_capture_offload and directory not in self._prepared:
            async with self._attached() as sandbox:
                await _files.arun(_make_directory(directory), sandbox)
            self._prepared.add(directory)
        return await super().aexecute_with_offload(
            command,
            capture_path,
            max_inline_bytes=max_inline_bytes,
            max_capture_bytes=max_capture_bytes,
            timeout=timeout,
        )

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, and creates their parent directories."""
        if self._is_root is None:
            self._is_root = _files.run(_files.is_root(), self._sandbox)
        return [_files.run(_upload(*file, self._is_root), self._sandbox) for file in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files."""
        if self._is_root is None:
            self._is_root = _files.run(_files.is_root(), self._sandbox)
        return [_files.run(_download(path, self._is_root), self._sandbox) for path in paths]

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files as `upload_files` does."""
        async with self._attached() as sandbox:
            if self._is_root is None:
                self._is_root = await _files.arun(_files.is_root(), sandbox)
            return [await _files.arun(_upload(*file, self._is_root), sandbox) for file in files]

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files as `download_files` does."""
        async with self._attached() as sandbox:
            if self._is_root is None:
                self._is_root = await _files.arun(_files.is_root(), sandbox)
            return [await _files.arun(_download(path, self._is_root), sandbox) for path in paths]

    def _attached(self) -> AbstractAsyncContextManager[AsyncSandbox]:
        # A client of its own: the agent may run in another event loop each time.
        target = self._sandbox._target
        return attached(self._id, target.url, target.key)


def _make_directory(path: str) -> _files.Steps[None]:
    """Creates the directory of captured output, if it is missing.

    The framework chooses it, at the root of the file system, where a user without privileges may
    not create one. The server may, for a file in it, and makes it the user's.
    """
    quoted = shlex.quote(path)
    if not (yield _files.Step("exec", (f"[ -d {quoted} ]",))).ok:
        yield _files.Step("write_bytes", (f"{path}/.created", b""))
        yield _files.Step("exec", (f"rm -f {quoted}/.created",))


def _upload(path: str, content: bytes, as_root: bool) -> _files.Steps[FileUploadResponse]:
    if not _is_valid(path):
        return FileUploadResponse(path, INVALID_PATH)
    try:
        yield from _files.write(path, content, as_root)
    except OSError as error:
        return FileUploadResponse(path, _reason(error))
    return FileUploadResponse(path)


def _download(path: str, as_root: bool) -> _files.Steps[FileDownloadResponse]:
    if not _is_valid(path):
        return FileDownloadResponse(path, None, INVALID_PATH)
    try:
        content = yield from _files.read(path, as_root)
    except OSError as error:
        return FileDownloadResponse(path, None, _reason(error))
    return FileDownloadResponse(path, content)


def _is_valid(path: str) -> bool:
    return posixpath.isabs(path) and "\0" not in path and ".." not in path.split("/")


def _reason(error: OSError) -> str:
    """Returns the name that the framework has for an error, or else a message."""
    if isinstance(error, FileNotFoundError):
        return FILE_NOT_FOUND
    if isinstance(error, PermissionError):
        return PERMISSION_DENIED
    if isinstance(error, IsADirectoryError):
        return IS_DIRECTORY
    if isinstance(error, NotADirectoryError):
        return INVALID_PATH
    return error.strerror or str(error)


def _checked(timeout: int) -> int:
    if timeout < 0:
        raise ValueError(f"timeout is {timeout}: give a number of seconds, or 0 for no timeout")
    return timeout


def _merged(command: str) -> str:
    """Returns the command with its standard error in the standard output."""
    return f"exec 2>&1\n{command}"


def _response(result: ExecResult) -> ExecuteResponse:
    # A shell that cannot parse the command reports it where it started.
    return ExecuteResponse(
        output=result.stdout + result.stderr,
        exit_code=result.exit_code,
        truncated=result.stdout_truncated or result.stderr_truncated,
    )


def _failure(error: IsorunError) -> ExecuteResponse:
    """Returns what the agent gets for a command that failed to run, or raises the error if
    another command cannot succeed either."""
    if isinstance(error, IsorunTimeoutError) and error.kind == "exec_timeout":
        output = f"{error.stdout}{error.stderr}"
        separator = "" if not output or output.endswith("\n") else "\n"
        return ExecuteResponse(f"{output}{separator}Error: {error}", exit_code=_EXIT_TIMEOUT)
    if error.kind in _REFUSED:
        return ExecuteResponse(f"Error: {error}", exit_code=_EXIT_NOT_STARTED)
    raise error
