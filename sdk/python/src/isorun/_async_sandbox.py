"""The class `AsyncSandbox`: a Linux sandbox on a server, for asyncio."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from . import _code_protocol, _config, _protocol
from ._async_contexts import AsyncContexts
from ._async_io import Transport, file_chunks, notify
from ._async_shell import AsyncShell
from ._base import SandboxBase
from ._code import Context, Execution, ExecutionError, Result
from ._types import DestroyStats, ExecBytesResult, ExecResult, SandboxInfo, SnapshotInfo


class AsyncSandbox(SandboxBase):
    """A Linux sandbox on an isorun server, for asyncio.

    As an asynchronous context manager it is created on entry and destroyed on exit.
    Otherwise call `create` and `destroy`.
    """

    def __init__(
        self,
        image: str,
        *,
        vcpus: int | None = None,
        mem_mib: int | None = None,
        disk_mib: int | None = None,
        timeout: float = 30,
        sandbox_timeout: float = 300,
        network_profile: str = "default",
        allow: Sequence[str] | None = None,
        deny: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        credentials: Mapping[str, Any] | None = None,
        on_idle: str = "destroy",
        auto_resume: bool = False,
        api_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        """
        :param image: any OCI image, or `host`: the server's own programs, read-only; or
            an interpreter: `isola:python`, `isola:python-data` or `isola:js`.
        :param vcpus: the number of virtual CPUs; 1 by default.
        :param mem_mib: the memory in MiB; 1024 by default, and 256 for an interpreter.
        :param disk_mib: the limit of the sandbox's writable disk space, in MiB; 10240 by
            default, and 64 for an interpreter, whose files are in memory.
        :param timeout: the default timeout of a command in seconds; 0 or -1 for no
            timeout.
        :param sandbox_timeout: the time without activity, in seconds, after which the
            sandbox is destroyed or hibernated; 0 or -1 for never.
        :param network_profile: `default`, `locked-down` or `internet`.
        :param allow: the allowed destinations, instead of a profile.
        :param deny: the denied destinations, instead of a profile.
        :param env: the environment variables of every command.
        :param credentials: secrets that stay outside of the sandbox, by service name.
        :param on_idle: the action after `sandbox_timeout`: `destroy` or `hibernate`.
        :param auto_resume: whether a command or a file operation resumes a hibernated
            sandbox. Otherwise it is an error.
        :param api_url: the URL of the server; by default `ISORUN_API_URL`, or that of
            this machine's server.
        :param api_key: the API key; by default `ISORUN_API_KEY`, or that of this
            machine's server.
        """
        options = _protocol.Options(
            image, vcpus, mem_mib, disk_mib, sandbox_timeout, network_profile,
            allow, deny, env, credentials, on_idle, auto_resume,
        )  # fmt: skip
        self._target = _config.find(api_url, api_key)
        super().__init__(options, timeout, self._target.url)
        self._transport = Transport(self._target)

    async def create(self) -> SandboxInfo:
        """Creates the sandbox. Sets `id` and `info`."""
        self._ensure_new()
        try:
            return self._created(await self._transport.send(_protocol.create(self._options)))
        except BaseException:
            await self._transport.close()
            raise

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | None = None,
    ) -> ExecResult:
        """Runs a command and waits for its end.

        :param command: a shell command line, or a program and its arguments.
        :param timeout: the timeout in seconds; 0 or -1 for no timeout. The default is
            that of the sandbox.
        :param env: additional environment variables of this command.
        :param cwd: its working directory, an absolute path; by default that of the image.
        :param stdin: the content of its standard input; empty by default. A request has at most
            1 MiB: write more than that into a file.
        :raises IsorunTimeoutError: the command exceeded the timeout and was killed.
        """
        full = _protocol.Command(command, self._exec_timeout(timeout), env, cwd, stdin)
        return await self._transport.send(_protocol.execute(self._running(), full))

    async def exec_bytes(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | None = None,
    ) -> ExecBytesResult:
        """Runs a command as `exec` does, and returns its output byte for byte.

        The output in an `IsorunTimeoutError` is text nevertheless.
        """
        full = _protocol.Command(command, self._exec_timeout(timeout), env, cwd, stdin)
        return await self._transport.send(_protocol.execute_bytes(self._running(), full))

    async def exec_stream(
        self,
        command: str | Sequence[str],
        *,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | None = None,
    ) -> ExecResult:
        """Runs a command, and calls a callback for each chunk of output as it arrives.

        Callbacks may be plain or asynchronous. If one raises, the command is killed.
        The other parameters are those of `exec`.
        """
        full = _protocol.Command(command, self._exec_timeout(timeout), env, cwd, stdin)
        operation = _protocol.execute_stream(self._running(), full)
        listeners = {"stdout": on_stdout, "stderr": on_stderr}

        async def listen(name: str, text: str) -> None:
            if (listener := listeners[name]) is not None:
                await notify(listener, text)

        return await self._transport.stream(operation, _protocol.ExecStream(), listen)

    async def run_code(
        self,
        code: str,
        *,
        language: str | None = None,
        context: str | Context | None = None,
        timeout: float | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        on_result: Callable[[Result], object] | None = None,
        on_error: Callable[[ExecutionError], object] | None = None,
    ) -> Execution:
        """Runs a cell of code, as a notebook does, and returns its results and output.

        Variables persist from one cell to the next of the same context. Code that raises an
        exception is not an exception here: see `error` of the result.

        Callbacks may be plain or asynchronous. If one raises, the cell is interrupted.

        :param language: `python` by default, `javascript`, or that of a Jupyter kernel of the
            image.
        :param context: a context or its id; by default the default context of the language.
        :param timeout: the timeout in seconds, after which the cell is interrupted; 0 or -1 for
            no timeout. The default is that of the sandbox.
        """
        listeners: dict[str, Callable[[Any], object] | None] = {
            "stdout": on_stdout,
            "stderr": on_stderr,
            "result": on_result,
            "error": on_error,
        }
        has_listeners = any(listener is not None for listener in listeners.values())
        seconds = self._exec_timeout(timeout)
        operation = _code_protocol.run_code(
            self._running(), code, language, context, seconds, has_listeners
        )
        if not has_listeners:
            return await self._transport.send(operation)

        async def listen(name: str, value: Any) -> None:
            if (listener := listeners.get(name)) is not None:
                await notify(listener, value)

        return await self._transport.stream(operation, _code_protocol.CodeStream(), listen)

    @property
    def contexts(self) -> AsyncContexts:
        """The contexts of the sandbox, in which `run_code` runs code."""
        return AsyncContexts(self._transport, self._running())

    async def upload_file(self, local_path: str | os.PathLike[str], remote_path: str) -> None:
        """Copies a local file and its permissions into the sandbox, and creates the parent
        directories."""
        mode = os.stat(local_path).st_mode
        operation = _protocol.upload(self._running(), remote_path, mode)
        await self._transport.send(operation, file_chunks(os.fspath(local_path)))

    async def download(self, remote_path: str, *, max_bytes: int | None = None) -> bytes:
        """Reads a file of the sandbox.

        :param max_bytes: the largest size to accept. A longer file is an error of the kind
            `too_large`, and is not read to its end.
        """
        operation = _protocol.download(self._running(), remote_path)
        return await self._transport.receive(operation, max_bytes)

    async def write_text(self, remote_path: str, text: str) -> None:
        """Writes a file in the sandbox, as UTF-8, and creates the parent directories."""
        await self.write_bytes(remote_path, text.encode())

    async def write_bytes(
        self, remote_path: str, content: bytes, *, mode: int | None = None
    ) -> None:
        """Writes a file in the sandbox, and creates the parent directories.

        A file that exists is replaced at once, when all of the content has arrived; through a
        symbolic link its target is replaced.

        :param mode: the permissions, such as `0o755`; by default those of the file that exists,
            or 644.
        """
        operation = _protocol.upload(self._running(), remote_path, mode)
        await self._transport.send(operation, content)

    async def ls(self, remote_path: str) -> list[str]:
        """Returns the sorted names in a directory of the sandbox. Names that are not UTF-8 have
        the form that `os.listdir` returns, which `download` accepts."""
        return await self._transport.send(_protocol.ls(self._running(), remote_path))

    async def set_timeout(self, seconds: float) -> None:
        """Sets the sandbox's timeout without activity, in seconds; 0 or -1 for no timeout."""
        await self._transport.send(_protocol.set_timeout(self._running(), seconds))

    async def fork(self, count: int = 1) -> list[AsyncSandbox]:
        """Copies the running sandbox, with its current files, memory and processes.

        The copies are independent of it and of each other. The sandbox itself continues.
        """
        infos = await self._transport.send(_protocol.fork(self._running(), count))
        return [self._copy(info) for info in infos]

    async def hibernate(self) -> None:
        """Hibernates the sandbox to the server's disk. `resume` restores it."""
        await self._transport.send(_protocol.hibernate(self._running()))

    async def resume(self) -> None:
        """Resumes the hibernated sandbox in the same state."""
        await self._transport.send(_protocol.resume(self._running()))

    async def checkpoint(self) -> str:
        """Takes a snapshot that is stored on the server. Returns its id, for `restore`."""
        return await self._transport.send(_protocol.snapshot(self._running()))

    @classmethod
    async def restore(
        cls,
        snapshot_id: str,
        *,
        timeout: float = 30,
        api_url: str | None = None,
        api_key: str | None = None,
    ) -> AsyncSandbox:
        """Creates a sandbox that continues from a snapshot.

        The parameters are those of the constructor.
        """
        sandbox = cls("", timeout=timeout, api_url=api_url, api_key=api_key)
        try:
            info = await sandbox._transport.send(_protocol.restore(snapshot_id))
        except BaseException:
            await sandbox._transport.close()
            raise
        sandbox._options = sandbox._options_of(info)
        sandbox._created(info)
        return sandbox

    @classmethod
    async def connect(
        cls,
        sandbox_id: str,
        *,
        timeout: float = 30,
        api_url: str | None = None,
        api_key: str | None = None,
    ) -> AsyncSandbox:
        """Returns the existing sandbox with this id, which another program may have created.

        As a context manager it is destroyed on exit, like one that `create` created. The
        parameters are those of the constructor.

        :raises IsorunError: the sandbox does not exist, was destroyed, or belongs to another
            tenant.
        """
        sandbox = cls("", timeout=timeout, api_url=api_url, api_key=api_key)
        try:
            info = await sandbox._transport.send(_protocol.get(sandbox_id))
        except BaseException:
            await sandbox._transport.close()
            raise
        sandbox._options = sandbox._options_of(info)
        sandbox._created(info)
        return sandbox

    @staticmethod
    async def snapshots(
        *, api_url: str | None = None, api_key: str | None = None
    ) -> list[SnapshotInfo]:
        """Returns the snapshots on the server, the oldest first."""
        transport = Transport(_config.find(api_url, api_key))
        try:
            return await transport.send(_protocol.snapshots())
        finally:
            await transport.close()

    @staticmethod
    async def delete_snapshot(
        snapshot_id: str, *, api_url: str | None = None, api_key: str | None = None
    ) -> None:
        """Deletes a snapshot. Sandboxes that were restored from it are not affected."""
        transport = Transport(_config.find(api_url, api_key))
        try:
            await transport.send(_protocol.delete_snapshot(snapshot_id))
        finally:
            await transport.close()

    def shell(self, *, session: str | None = None, cwd: str | None = None) -> AsyncShell:
        """Returns a bash session, whose state persists from one command to the next.

        Requires the package `websockets`.

        :param session: the `session` of an existing shell to attach to: one that lost
            its connection, or one of the sandbox from which this one was forked.
        :param cwd: the working directory in which the shell starts.
        """
        return AsyncShell(self._target, self._running(), self.timeout, session, cwd)

    def _copy(self, info: SandboxInfo) -> AsyncSandbox:
        copy = AsyncSandbox.__new__(AsyncSandbox)
        SandboxBase.__init__(copy, self._options_of(info), self.timeout, self._api_url)
        copy._target = self._target
        copy._transport = Transport(self._target)
        copy._created(info)
        return copy

    async def destroy(self) -> DestroyStats:
        """Destroys the sandbox. Further calls return the same statistics."""
        if self._stats is None:
            self._destroyed(await self._transport.send(_protocol.destroy(self._running())))
            await self._transport.close()
        return self._final_stats()

    async def close(self) -> None:
        """Closes the connections to the server. The sandbox continues to exist, and a further
        operation opens new ones."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncSandbox:
        if self.id is None:
            await self.create()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stats is None:
            with self._ignore_destroyed(error):
                await self.destroy()
        await self._transport.close()
