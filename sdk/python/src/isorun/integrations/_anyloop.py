"""A sandbox that can be used from any thread and any event loop.

Frameworks run tools in event loops of their own, often in a new one for each request, while an
`AsyncSandbox` keeps connections of one event loop. So each operation here opens a connection,
and closes it at its end.
"""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from .. import _protocol
from .._async_sandbox import AsyncSandbox
from .._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from .._http import map_errors, timeouts
from .._sandbox import Sandbox
from .._types import ExecResult, SandboxInfo

# The number of chunks of output that wait for a slow consumer. The command waits when there
# are as many.
MAX_QUEUED_CHUNKS = 16

# The timeout of a command of the adapter itself, in seconds.
SCRIPT_TIMEOUT = 60.0

# The errors of a sandbox that was destroyed already.
DESTROYED = ("run_destroyed", "run_not_found")


class AnyLoopSandbox:
    """A sandbox that is created and destroyed here, or one that exists."""

    def __init__(self, sandbox: str | Sandbox | AsyncSandbox, directory: str | None = None) -> None:
        """
        :param sandbox: an image; or a sandbox that is not created, whose options are used for
            the one that `create` creates; or a created one, which `destroy` leaves alone.
        :param directory: an absolute path, which `create` creates in the sandbox. In an image
            without the program `rm` it then contains the empty file `.isorun`.
        """
        self._given = sandbox
        self._directory = directory
        self._lock = threading.Lock()
        self._owned: Sandbox | None = None
        self._info: SandboxInfo | None = None
        self._starts_lock = threading.Lock()
        self._starts = 0
        self._is_started = False

    @property
    def id(self) -> str | None:
        """The id of the sandbox, while it is in use."""
        return None if self._info is None else self._info.id

    def create(self) -> None:
        """Creates the sandbox, unless it is created. Blocks until then."""
        with self._lock:
            if self._info is not None:
                return
            given = self._given
            if isinstance(given, str):
                sandbox = Sandbox(given)
            else:
                target = given._target
                sandbox = Sandbox("", api_url=target.url, api_key=target.key)
                sandbox._options = given._options
            if isinstance(given, str) or given.id is None:
                info = sandbox.create()
                self._owned = sandbox
            else:
                given._running()
                assert given.info is not None
                info = sandbox._created(given.info)
            try:
                self._make_directory(sandbox)
            except BaseException:
                if self._owned is not None:
                    self._destroy()
                raise
            finally:
                sandbox.close()
            self._info = info

    def destroy(self) -> None:
        """Destroys the sandbox if `create` created it. Blocks until then. If that fails, it can
        be called again; afterwards `create` creates another one."""
        with self._lock:
            self._destroy()

    async def start(self) -> None:
        """Does the same as `create`. If the task is cancelled, and no other one waits for the
        sandbox or uses it, then it is destroyed as soon as it exists."""
        with self._starts_lock:
            self._starts += 1
        try:
            await asyncio.to_thread(self.create)
            self._is_started = True
        except asyncio.CancelledError:
            with self._starts_lock:
                is_abandoned = self._starts == 1 and not self._is_started
            if is_abandoned:
                # It waits for `create`, which continues in its thread.
                threading.Thread(target=self._abandon, name="isorun-abandon").start()
            raise
        finally:
            with self._starts_lock:
                self._starts -= 1

    async def stop(self) -> None:
        """Does the same as `destroy`."""
        await asyncio.to_thread(self.destroy)

    async def run_script(self, script: str, cwd: str | None = None) -> ExecResult:
        """Runs a command of the adapter itself, which has a time limit: programs in the sandbox
        are not trusted to end."""
        async with self._connected() as sandbox:
            return await sandbox.exec(script, timeout=SCRIPT_TIMEOUT, cwd=cwd)

    async def exec_stream(
        self,
        command: str | Sequence[str],
        *,
        max_output: int,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | None = None,
    ) -> AsyncGenerator[tuple[str, str] | ExecResult, None]:
        """Runs a command, and yields the name of a stream and a text for each chunk of output,
        then the result.

        The command is killed if the generator is closed before that.

        :param max_output: the number of characters of each stream that the result and an
            exception contain at most. The chunks are complete.
        """
        full = _protocol.Command(command, timeout or 0, env, cwd, stdin)
        events = BoundedStream(max_output)
        queue: asyncio.Queue[tuple[str, str] | ExecResult | Exception]
        queue = asyncio.Queue(MAX_QUEUED_CHUNKS)

        async def listen(name: str, text: str) -> None:
            await queue.put((name, text))

        async def run() -> None:
            outcome: ExecResult | Exception
            try:
                async with self._connected() as sandbox:
                    operation = _protocol.execute_stream(sandbox._running(), full)
                    outcome = await sandbox._transport.stream(operation, events, listen)
            except Exception as error:
                outcome = error
            await queue.put(outcome)

        running = asyncio.create_task(run())
        try:
            while isinstance(item := await queue.get(), tuple):
                yield item
        finally:
            # Ends the command, unless it has ended.
            running.cancel()
            await asyncio.wait([running])
        if isinstance(item, Exception):
            raise item
        yield item

    async def read(self, path: str, max_bytes: int) -> bytes:
        """Reads a file.

        :raises OSError: it has more than `max_bytes`. No more than that is read.
        """
        async with self._connected() as sandbox:
            operation = _protocol.download(sandbox._running(), path)
            content = bytearray()
            with map_errors(sandbox._target.url):
                async with sandbox._transport._client.stream(
                    operation.method, operation.target, timeout=timeouts(operation.read_timeout)
                ) as response:
                    if not response.is_success:
                        return operation.parse_response(
                            response.status_code, await response.aread()
                        )
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if len(content) > max_bytes:
                            raise OSError(
                                f"{path} has more than {max_bytes} bytes, the limit of the "
                                "adapter: read a part of it with a command, or raise the limit"
                            )
            return bytes(content)

    async def write(self, path: str, content: bytes) -> None:
        """Writes a file, and creates the parent directories."""
        async with self._connected() as sandbox:
            await sandbox.write_bytes(path, content)

    async def ls(self, path: str) -> list[str]:
        """Returns the sorted names in a directory, as `AsyncSandbox.ls` does."""
        async with self._connected() as sandbox:
            return await sandbox.ls(path)

    def _make_directory(self, sandbox: Sandbox) -> None:
        if self._directory is None:
            return
        quoted = shlex.quote(self._directory)
        marker = f"{self._directory.rstrip('/')}/.isorun"
        try:
            if sandbox.exec(f"cd {quoted}").ok:
                return
            # A directory that an upload creates belongs to the user of the image, who may not be
            # allowed to create it.
            sandbox.write_bytes(marker, b"")
            sandbox.exec(f"rm -f {shlex.quote(marker)}")
        except IsorunError as error:
            if error.kind != "file_error":
                raise
            raise IsorunError(
                f"the directory {self._directory} cannot be created in the sandbox: {error}. "
                "Choose another working directory",
                code=error.code,
                kind=error.kind,
            ) from error

    def _abandon(self) -> None:
        # The server destroys it when it is idle.
        with suppress(IsorunError):
            self.destroy()

    def _destroy(self) -> None:
        if self._owned is not None:
            try:
                self._owned.destroy()
            except IsorunError as error:
                if error.kind not in DESTROYED:
                    raise
            finally:
                self._owned.close()
        self._owned = self._info = None
        self._is_started = False

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncSandbox]:
        info, given = self._info, self._owned or self._given
        if info is None or isinstance(given, str):
            raise IsorunError("the sandbox is not created: use `with`, or call create()")
        target = given._target
        sandbox = AsyncSandbox(info.image, api_url=target.url, api_key=target.key)
        sandbox._created(info)
        try:
            yield sandbox
        finally:
            await sandbox.close()

    def __getstate__(self) -> dict[str, Any]:
        # An agent may be copied to another process before it is used.
        if not isinstance(self._given, str) or self._info is not None:
            raise TypeError(
                "only a sandbox that is given as the name of an image, and that is not created, "
                "can be pickled"
            )
        return {"_given": self._given, "_directory": self._directory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_given"], state["_directory"])  # type: ignore[misc]


def absolute(path: str, directory: str) -> str:
    """Returns the absolute form of a path, which the server requires, without `..`."""
    joined = path if path.startswith("/") else f"{directory.rstrip('/')}/{path}"
    parts: list[str] = []
    for part in joined.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def noted(stderr: str, stdout_truncated: bool, stderr_truncated: bool) -> str:
    """Returns the standard error of a command, and a line for each stream that is incomplete."""
    cut = [("standard output", stdout_truncated), ("standard error", stderr_truncated)]
    names = " and ".join(name for name, is_truncated in cut if is_truncated)
    if not names:
        return stderr
    separator = "" if not stderr or stderr.endswith("\n") else "\n"
    return f"{stderr}{separator}[isorun: the end of {names} is missing, which exceeds the limit]\n"


@contextmanager
def file_errors() -> Iterator[None]:
    """Converts the exceptions of a failed operation on a file to those of Python."""
    try:
        yield
    except IsorunError as error:
        kind: type[OSError] = OSError
        if error.kind == "file_not_found":
            kind = FileNotFoundError
        elif isinstance(error, IsorunConnectionError):
            kind = ConnectionError
        elif isinstance(error, IsorunTimeoutError):
            kind = TimeoutError
        raise kind(str(error)) from error


class BoundedStream(_protocol.ExecStream):
    """A parser of the response to a streamed command, whose result has a limited size."""

    def __init__(self, max_output: int) -> None:
        super().__init__()
        self._left = {"stdout": max_output, "stderr": max_output}
        self._is_truncated = {"stdout": False, "stderr": False}

    def event(self, data: str) -> tuple[str, Any] | None:
        heard = super().event(data)
        if heard is not None:
            name, text = heard
            kept = self._stdout if name == "stdout" else self._stderr
            part = text[: self._left[name]]
            kept[-1:] = [part] if part else []
            self._left[name] -= len(part)
            self._is_truncated[name] |= len(part) < len(text)
        return heard

    def result(self) -> ExecResult:
        complete = super().result()
        return ExecResult(
            complete.exit_code,
            complete.stdout,
            complete.stderr,
            self._is_truncated["stdout"],
            self._is_truncated["stderr"],
        )
