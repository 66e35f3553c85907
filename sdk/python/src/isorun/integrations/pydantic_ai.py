"""Workspaces of Pydantic AI in sandboxes.

    from pydantic_ai import Agent
    from isorun.integrations.pydantic_ai import IsorunWorkspace

    agent = Agent("...", capabilities=[IsorunWorkspace("python:3.12")])

Tools get the workspace as `ctx.workspace`. The page `docs/integrations/pydantic-ai.md` says what
maps to what.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import math
import posixpath
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError, IsorunTimeoutError
from .._types import ExecBytesResult
from . import _files, _paths
from ._commands import exec_argv
from ._connection import attached, is_gone
from ._missing import framework_missing
from ._options import SandboxOptions

try:
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.messages import Authority
    from pydantic_ai.tools import AgentDepsT, RunContext
    from pydantic_ai.workspaces import (
        AuthorityWorkspace,
        CommandResult,
        FileEntry,
        ReadOnlyWorkspace,
        SupportsCommands,
        SupportsFilesystem,
        SupportsRealpath,
        Workspace,
        WorkspaceBackend,
        WorkspaceCommand,
        WorkspaceOutputLimitError,
        WorkspaceRef,
        WorkspaceTimeoutError,
        WorkspaceUnavailableError,
    )
except ImportError as error:
    raise framework_missing(__name__, "pydantic-ai", error) from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

PROVIDER = "isorun"
"""The provider in a `WorkspaceRef` of this module."""

# The shortest timeout in seconds that the server distinguishes from none.
_MIN_TIMEOUT = 0.001

# Exit codes of the scripts below, which are 100 plus the error number of Linux.
_EXIT_ERRORS = {102: errno.ENOENT, 113: errno.EACCES, 117: errno.EEXIST, 120: errno.ENOTDIR}
_EXIT_REFUSED = 99

_START = 'mkdir -p "$d" 2>/dev/null; cd "$d" && pwd -P && { id -u 2>/dev/null || echo unknown; }'

_STAT = r"""
if [ -d "$p" ]; then echo directory
elif [ -f "$p" ]; then stat -L -c %s "$p" 2>/dev/null || echo unknown
elif [ -e "$p" ]; then echo unknown
else exit 102
fi
"""

# Prints `d` or `-` and the name of each entry, which ends with a NUL byte.
_LIST = r"""
[ -d "$p" ] || { [ ! -e "$p" ] || exit 120; exit 102; }
cd "$p/" 2>/dev/null && [ -r . ] || exit 113
for n in * .[!.]* ..?*; do
  if [ -d "./$n" ]; then printf 'd%s\0' "$n"
  elif [ -e "./$n" ] || [ -L "./$n" ]; then printf -- '-%s\0' "$n"
  fi
done
"""

_MAKE_DIR = r"""
[ ! -d "$p" ] || exit 0
[ ! -e "$p" ] || exit 117
d=$p
while d=${d%/*}; [ ! -d "$d/" ]; do [ ! -e "$d" ] || exit 120; done
[ -w "$d/" ] && [ -x "$d/" ] || exit 113
mkdir -p "$p"
"""

# `$r` is the working directory. A symbolic link is removed itself, so only the path above it is
# resolved.
_REMOVE = r"""
[ -e "$p" ] || [ -L "$p" ] || exit 102
above=$(cd -P "${p%/*}/" 2>/dev/null && pwd -P) || exit 113
target=${above%/}/${p##*/}
case "$r/" in "$target"/*) exit 99;; esac
[ -w "$above" ] || exit 113
rm -rf "$p"
"""

# Resolves each part of the path from left to right, as `os.path.realpath` does. A loop of links
# ends when the kernel would give up, with the rest of the path as it is.
_REALPATH = r"""
todo=$p; real=; links=0
while [ -n "$todo" ]; do
  part=${todo%%/*}
  case $todo in */*) todo=${todo#*/};; *) todo=;; esac
  case $part in
    ''|.) ;;
    ..) real=${real%/*};;
    *)
      if [ $links -lt 40 ] && [ -L "$real/$part" ]; then
        links=$((links + 1))
        link=$(readlink "$real/$part" && echo .) || exit
        link=${link%??}
        case $link in /*) real=;; esac
        todo=$link/$todo
      else
        real=$real/$part
      fi;;
  esac
done
printf %s "${real:-/}"
"""


class IsorunWorkspaceBackend(
    WorkspaceBackend, SupportsCommands, SupportsFilesystem, SupportsRealpath
):
    """A workspace that is a sandbox on an isorun server.

    The first operation creates the sandbox, or uses the one that the ref names. An idle sandbox
    is hibernated and resumed by the next operation, unless `on_idle` says otherwise. It exists
    until `destroy`.
    """

    def __init__(
        self,
        image: str = "python:3.12",
        *,
        ref: WorkspaceRef | None = None,
        working_dir: str | None = None,
        **options: Unpack[SandboxOptions],
    ) -> None:
        """
        :param image: the image of a new sandbox.
        :param ref: the ref of an existing sandbox, of the same tenant of the server. `image` and
            the options are not used then, except `api_url` and `api_key`.
        :param working_dir: the directory in which commands start and against which paths are
            resolved. It is created if it is missing. The default is that of the image.
        :param options: those of `AsyncSandbox`.
        """
        if ref is not None and ref.provider != PROVIDER:
            raise ValueError(
                f"the ref is of the provider {ref.provider!r}: this backend attaches to those of "
                f"{PROVIDER!r}"
            )
        if working_dir is not None and not posixpath.isabs(working_dir):
            raise ValueError(f"working_dir is {working_dir!r}: give an absolute path")
        self._image = image
        self._ref = ref
        self._directory = None if working_dir is None else posixpath.normpath(working_dir)
        self._options = SandboxOptions(on_idle="hibernate", auto_resume=True)
        self._options.update(options)
        self._lock = threading.Lock()
        self._creating: concurrent.futures.Future[str] | None = None
        # The task is kept, since the event loop has only a weak reference to it.
        self._creator: asyncio.Task[None] | None = None
        self._started: _Start | None = None

    @property
    def ref(self) -> WorkspaceRef | None:
        """The sandbox's identity, or `None` if the sandbox is not created."""
        return self._ref

    async def working_dir(self) -> str:
        return (await self._start()).working_dir

    async def run(
        self,
        command: WorkspaceCommand,
        *,
        shell: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        if isinstance(command, str) != shell:
            raise TypeError(
                "the command is a string, which needs shell=True"
                if isinstance(command, str)
                else "the command is a list of arguments, which needs shell=False"
            )
        if timeout is not None and not (
            isinstance(timeout, (int, float)) and math.isfinite(timeout) and timeout > 0
        ):
            raise ValueError(f"timeout is {timeout!r}: give a positive number of seconds, or None")
        if not command:
            raise ValueError("the command is empty")
        if isinstance(command, str) and "\0" in command:
            raise ValueError("the command has a NUL character, which Linux does not allow")
        start = await self._start()
        # Zero means none to the server.
        seconds = 0.0 if timeout is None else max(timeout, _MIN_TIMEOUT)
        async with self._sandbox() as sandbox:
            try:
                if isinstance(command, str):
                    result = await sandbox.exec(
                        command, timeout=seconds, env=env, cwd=start.working_dir
                    )
                else:
                    result = await exec_argv(
                        sandbox, command, timeout=seconds, env=env, cwd=start.working_dir
                    )
            except IsorunTimeoutError as error:
                if error.kind != "exec_timeout":
                    raise
                raise WorkspaceTimeoutError(
                    f"the command took longer than {timeout:g} s, and was killed",
                    stdout=error.stdout,
                    stderr=error.stderr,
                ) from error
            except IsorunError as error:
                if error.kind != "invalid_request":
                    raise
                raise ValueError(f"the server refused the command: {error}") from error
        if result.stdout_truncated or result.stderr_truncated:
            raise WorkspaceOutputLimitError(
                "the output of the command exceeds the limit of the server: write it to a file, "
                "and read a part of the file",
                limit=max(len(result.stdout.encode()), len(result.stderr.encode())),
                stdout=result.stdout,
                stderr=result.stderr,
            )
        return CommandResult(exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr)

    async def read_bytes(self, path: str) -> bytes:
        path = _absolute(path)
        start = await self._start()
        async with self._sandbox() as sandbox:
            return await _files.arun(_files.read(path, start.is_root), sandbox)

    async def write_bytes(self, path: str, data: bytes) -> None:
        path = _absolute(path)
        start = await self._start()
        async with self._sandbox() as sandbox:
            await _files.arun(_files.write(path, data, start.is_root), sandbox)

    async def stat(self, path: str) -> FileEntry:
        path = _absolute(path)
        async with self._sandbox() as sandbox:
            found = (await _script(sandbox, path, _STAT)).stdout.decode().strip()
        return FileEntry(
            name=posixpath.basename(path),
            path=path,
            is_dir=found == "directory",
            size=int(found) if found.isdecimal() else None,
        )

    async def list_dir(self, path: str) -> Sequence[FileEntry]:
        path = _absolute(path)
        async with self._sandbox() as sandbox:
            result = await _script(sandbox, path, _LIST)
        if result.stdout_truncated:
            raise OSError(errno.EOVERFLOW, "The directory has too many entries to list", path)
        # Names that are not UTF-8 get the form that `os.listdir` returns.
        found = result.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
        entries = [
            FileEntry(
                name=entry[1:],
                path=posixpath.join(path, entry[1:]),
                is_dir=entry[0] == "d",
                size=None,
            )
            for entry in found
        ]
        return sorted(entries, key=lambda entry: entry.name)

    async def make_dir(self, path: str) -> None:
        path = _absolute(path)
        async with self._sandbox() as sandbox:
            await _script(sandbox, path, _MAKE_DIR)

    async def remove(self, path: str) -> None:
        path = _absolute(path)
        start = await self._start()
        refusal = f"{path!r} is the working directory or above it, and cannot be removed"
        if path == "/":
            raise ValueError(refusal)
        script = _paths.assign("r", start.working_dir) + _REMOVE
        async with self._sandbox() as sandbox:
            result = await _script(sandbox, path, script, accepted=(0, _EXIT_REFUSED))
        if result.exit_code == _EXIT_REFUSED:
            raise ValueError(refusal)

    async def exists(self, path: str) -> bool:
        path = _absolute(path)
        async with self._sandbox() as sandbox:
            return (await _script(sandbox, path, '[ -e "$p" ]', accepted=(0, 1))).exit_code == 0

    async def realpath(self, path: str) -> str:
        _absolute(path)
        async with self._sandbox() as sandbox:
            # `..` after a link climbs from its target, so the text is not normalized.
            result = await _script(sandbox, path, _REALPATH)
        return result.stdout.decode("utf-8", "surrogateescape")

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[AsyncSandbox]:
        """Returns an asynchronous context manager of the sandbox, for operations that workspaces
        lack: forks, snapshots, shells, URLs of ports. The end of the block does not destroy it.
        """
        await self._start()
        async with self._sandbox() as sandbox:
            yield sandbox

    async def destroy(self) -> None:
        """Destroys the sandbox, if there is one. Further operations raise
        `WorkspaceUnavailableError`."""
        if self._creating is None and self._ref is None:
            return
        async with attached(
            await self._id(), self._options.get("api_url"), self._options.get("api_key")
        ) as sandbox:
            try:
                await sandbox.destroy()
            except IsorunError as error:
                if error.kind not in ("run_destroyed", "run_not_found"):
                    raise

    @asynccontextmanager
    async def _sandbox(self) -> AsyncIterator[AsyncSandbox]:
        """Returns the sandbox, which is created if there is none, for one operation."""
        identifier = await self._id()
        with _unavailable_if_gone(identifier):
            async with attached(
                identifier, self._options.get("api_url"), self._options.get("api_key")
            ) as sandbox:
                yield sandbox

    async def _start(self) -> _Start:
        """Returns what does not change in a sandbox, and creates the sandbox if necessary."""
        if self._started is not None:
            return self._started
        async with self._sandbox() as sandbox:
            command = _paths.assign("d", self._directory or ".") + _START
            try:
                result = await sandbox.exec(command)
            except IsorunError as error:
                if error.kind != "run_hibernated":
                    raise
                # A sandbox that another program created without `auto_resume`.
                await sandbox.resume()
                result = await sandbox.exec(command)
        directory, _, user = result.stdout.rstrip("\n").rpartition("\n")
        if not result.ok or not directory.startswith("/"):
            raise IsorunError(
                f"the working directory {self._directory or 'of the image'} cannot be used: "
                f"{result.stderr.strip() or f'the shell exited with {result.exit_code}'}"
            )
        self._started = _Start(directory, is_root=user == "0")
        return self._started

    async def _id(self) -> str:
        """Returns the id of the sandbox, which is created if there is none.

        Concurrent callers create one together, even in different event loops.
        """
        if self._ref is not None:
            return self._ref.id
        with self._lock:
            if self._creating is None:
                future = concurrent.futures.Future[str]()
                # From now on a caller that is cancelled does not cancel it for the others.
                future.set_running_or_notify_cancel()
                self._creating = future
                self._creator = asyncio.get_running_loop().create_task(self._create(future))
            creating = self._creating
        return await asyncio.wrap_future(creating)

    async def _create(self, future: concurrent.futures.Future[str]) -> None:
        """Creates the sandbox. It is a task of its own, so that the sandbox that the server
        creates is known even if all callers were cancelled meanwhile."""
        try:
            sandbox = AsyncSandbox(self._image, **self._options)
            info = await sandbox.create()
            self._ref = WorkspaceRef(provider=PROVIDER, id=info.id)
            await sandbox.close()
            future.set_result(info.id)
        except BaseException as error:
            # The next operation tries again, unless the sandbox exists.
            self._creating = None
            if isinstance(error, asyncio.CancelledError):
                future.set_exception(
                    IsorunError("the event loop ended while a sandbox was created")
                )
                raise
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise


@dataclass
class IsorunWorkspace(AbstractCapability[AgentDepsT]):
    """Gives the runs of an agent a workspace that is a sandbox on an isorun server.

    A run that continues a conversation continues in the sandbox of it. The sandbox exists until
    it is destroyed with `IsorunWorkspaceBackend(ref=result.workspace.ref).destroy()`.
    """

    image: str = "python:3.12"
    """The image of new sandboxes."""

    _: KW_ONLY

    working_dir: str | None = None
    """The directory in which commands start; by default that of the image."""

    options: SandboxOptions = field(default_factory=SandboxOptions)
    """The options of `AsyncSandbox`, such as `{"mem_mib": 2048}`."""

    read_only: bool = False
    """Whether runs get a `ReadOnlyWorkspace`."""

    authority: Authority = "operator"
    """The authority of the files: `"none"` if code that is not trusted writes them. Anything
    below `"operator"` makes the workspace an `AuthorityWorkspace`."""

    id: str | None = "isorun_workspace"

    @classmethod
    def combine(
        cls, capabilities: Sequence[AbstractCapability[AgentDepsT]]
    ) -> AbstractCapability[AgentDepsT]:
        # The one of the run replaces that of the agent, with all of its options.
        return capabilities[-1]

    def get_workspace(
        self, ctx: RunContext[AgentDepsT], *, ref: WorkspaceRef | None
    ) -> WorkspaceBackend | None:
        if ref is not None and ref.provider != PROVIDER:
            return None
        workspace: WorkspaceBackend = IsorunWorkspaceBackend(
            self.image, ref=ref, working_dir=self.working_dir, **self.options
        )
        if self.read_only:
            workspace = ReadOnlyWorkspace(Workspace(workspace))
        if self.authority != "operator":
            workspace = AuthorityWorkspace(Workspace(workspace), authority=self.authority)
        return workspace


@dataclass(frozen=True)
class _Start:
    """What the first command in a sandbox reports."""

    working_dir: str
    is_root: bool


@contextmanager
def _unavailable_if_gone(identifier: str) -> Iterator[None]:
    try:
        yield
    except IsorunError as error:
        if not is_gone(error):
            raise
        raise WorkspaceUnavailableError(f"the sandbox {identifier} is gone: {error}") from error


async def _script(
    sandbox: AsyncSandbox, path: str, script: str, accepted: Sequence[int] = (0,)
) -> ExecBytesResult:
    """Runs a script with the path as `$p`, and raises the exception for its exit code."""
    result = await sandbox.exec_bytes(_paths.assign("p", path) + script)
    if result.exit_code in accepted:
        return result
    if number := _EXIT_ERRORS.get(result.exit_code):
        raise _paths.os_error(number, path)
    reason = result.stderr.decode("utf-8", "replace").strip()
    raise OSError(errno.EIO, reason or f"a shell exited with {result.exit_code}", path)


def _absolute(path: str) -> str:
    if not posixpath.isabs(path):
        raise ValueError(f"the path is {path!r}: give an absolute one")
    if "\0" in path:
        raise ValueError(f"the path {path!r} has a NUL character, which Linux does not allow")
    return "/" + posixpath.normpath(path).lstrip("/")
