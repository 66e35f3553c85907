"""A sandbox client of the OpenAI Agents SDK.

    from agents import Runner
    from agents.run_config import RunConfig, SandboxRunConfig
    from isorun.integrations.openai_agents import IsorunSandboxClient, IsorunSandboxClientOptions

    config = SandboxRunConfig(
        client=IsorunSandboxClient(),
        options=IsorunSandboxClientOptions(image="python:3.12"),
    )
    result = await Runner.run(agent, "...", run_config=RunConfig(sandbox=config))

The page `docs/integrations/openai-agents.md` says what maps to what.
"""

from __future__ import annotations

import io
import secrets
import tarfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError, IsorunTimeoutError
from .._types import ExecBytesResult
from ._connection import is_gone
from ._missing import framework_missing
from ._users import as_user, refusal

try:
    from agents.sandbox.errors import (
        ExecTimeoutError,
        ExecTransportError,
        ExposedPortUnavailableError,
        WorkspaceArchiveReadError,
        WorkspaceArchiveWriteError,
        WorkspaceReadNotFoundError,
    )
    from agents.sandbox.manifest import Manifest
    from agents.sandbox.session.base_sandbox_session import BaseSandboxSession
    from agents.sandbox.session.dependencies import Dependencies
    from agents.sandbox.session.manager import Instrumentation
    from agents.sandbox.session.runtime_helpers import (
        RESOLVE_WORKSPACE_PATH_HELPER,
        RuntimeHelperScript,
    )
    from agents.sandbox.session.sandbox_client import BaseSandboxClient, BaseSandboxClientOptions
    from agents.sandbox.session.sandbox_session import SandboxSession
    from agents.sandbox.session.sandbox_session_state import SandboxSessionState
    from agents.sandbox.session.workspace_payloads import coerce_write_payload
    from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec, resolve_snapshot
    from agents.sandbox.types import ExecResult, ExposedPortEndpoint, User
    from agents.sandbox.util.tar_utils import (
        UnsafeTarMemberError,
        strip_tar_member_prefix,
        validate_tarfile,
    )
    from agents.sandbox.workspace_paths import posix_path_for_error, sandbox_path_str
except ImportError as error:
    raise framework_missing(__name__, "openai-agents", error) from error

# Exit codes of `tar` for files that changed while it read them.
_TAR_OK = (0, 1)


class IsorunSandboxClientOptions(BaseSandboxClientOptions):
    """The options of new sandboxes. Those without a description are the ones of `AsyncSandbox`."""

    type: Literal["isorun"] = "isorun"
    image: str = "python:3.12"
    exposed_ports: tuple[int, ...] = ()
    """The ports that `resolve_exposed_port` may be asked for."""
    vcpus: int | None = None
    mem_mib: int | None = None
    disk_mib: int | None = None
    sandbox_timeout: float = 300
    network_profile: str = "default"
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None


class IsorunSandboxSessionState(SandboxSessionState):
    """What is needed to resume a session."""

    type: Literal["isorun"] = "isorun"
    sandbox_id: str
    options: IsorunSandboxClientOptions


class IsorunSandboxSession(BaseSandboxSession):
    """A session in a sandbox on an isorun server."""

    state: IsorunSandboxSessionState

    def __init__(self, sandbox: AsyncSandbox, state: IsorunSandboxSessionState) -> None:
        self.sandbox = sandbox
        """The sandbox, for operations that sessions lack: forks, snapshots, shells."""
        self.state = state
        self._is_ready = state.workspace_root_ready

    async def running(self) -> bool:
        try:
            other = await AsyncSandbox.connect(
                self.state.sandbox_id,
                api_url=self.sandbox._target.url,
                api_key=self.sandbox._target.key,
            )
        except IsorunError as error:
            if is_gone(error):
                return False
            raise
        await other.close()
        return other.info is not None and other.info.status == "running"

    async def exec(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
    ) -> ExecResult:
        name = user.name if isinstance(user, User) else user
        if name is None:
            return await super().exec(*command, timeout=timeout, shell=shell)
        # Without `sudo`, which images lack.
        argv = as_user(name, self._prepare_exec_command(*command, shell=shell, user=None))
        result = await self._exec_internal(*argv, timeout=timeout)
        if reason := refusal(result.exit_code, result.stderr.decode("utf-8", "replace")):
            raise ExecTransportError(
                command=command,
                message=f"commands cannot run as {name!r}: {reason}",
                retryable=False,
            )
        return result

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        return io.BytesIO(await self._read(path, user, None))

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        content = coerce_write_payload(path=path, data=data).stream.read()
        target = await self._validate_path_access(path, for_write=True)
        name = sandbox_path_str(target)
        if user is None:
            try:
                await self.sandbox.write_bytes(name, content)
            except IsorunError as error:
                raise WorkspaceArchiveWriteError(
                    path=target, context={"reason": str(error)}, cause=error
                ) from error
            return
        async with self._staged(content) as staged:
            script = 'mkdir -p "$(dirname "$2")" && cat "$1" > "$2"'
            result = await self.exec("sh", "-c", script, "sh", staged, name, shell=False, user=user)
        if not result.ok():
            raise WorkspaceArchiveWriteError(
                path=target, context={"stderr": result.stderr.decode("utf-8", "replace")}
            )

    async def persist_workspace(self) -> io.IOBase:
        root = self._workspace_root_path()
        archive = f"/tmp/.isorun-{secrets.token_hex(16)}"
        skipped = [
            f"--exclude={root.name}/{path.as_posix()}"
            for path in sorted(self._persist_workspace_skip_relpaths())
        ]
        try:
            result = await self._call(
                "tar", "-c", "-f", archive, "-C", root.parent.as_posix(), *skipped, root.name
            )
            if result.exit_code not in _TAR_OK:
                raise WorkspaceArchiveReadError(
                    path=posix_path_for_error(root),
                    context={"stderr": result.stderr.decode("utf-8", "replace")},
                )
            content = await self.sandbox.download(archive)
            return strip_tar_member_prefix(
                io.BytesIO(content), prefix=root.name, relativize_symlinks_under=root
            )
        except IsorunError as error:
            raise WorkspaceArchiveReadError(
                path=posix_path_for_error(root), context={"reason": str(error)}, cause=error
            ) from error
        finally:
            await self._remove(archive)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        root = self._workspace_root_path()
        where = posix_path_for_error(root)
        content = coerce_write_payload(path=root, data=data).stream.read()
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
                validate_tarfile(archive, allow_external_symlink_targets=False)
        except UnsafeTarMemberError as error:
            raise WorkspaceArchiveWriteError(
                path=where, context={"reason": error.reason, "member": error.member}, cause=error
            ) from error
        except (tarfile.TarError, OSError) as error:
            raise WorkspaceArchiveWriteError(path=where, cause=error) from error
        script = 'mkdir -p "$2" && tar -x -f "$1" -C "$2"'
        try:
            async with self._staged(content) as staged:
                result = await self._call("sh", "-c", script, "sh", staged, root.as_posix())
        except IsorunError as error:
            raise WorkspaceArchiveWriteError(
                path=where, context={"reason": str(error)}, cause=error
            ) from error
        if result.exit_code != 0:
            raise WorkspaceArchiveWriteError(
                path=where, context={"stderr": result.stderr.decode("utf-8", "replace")}
            )

    async def _ensure_backend_started(self) -> None:
        if self._workspace_state_preserved_on_start() and not await self.running():
            await self.sandbox.resume()

    async def _after_start(self) -> None:
        self._is_ready = True

    def _mark_workspace_root_ready_from_probe(self) -> None:
        super()._mark_workspace_root_ready_from_probe()
        self._is_ready = True

    async def _shutdown_backend(self) -> None:
        # It uses no memory until the session is resumed. `delete` of the client destroys it.
        try:
            await self.sandbox.hibernate()
        except IsorunError as error:
            if not is_gone(error) and error.kind != "run_hibernated":
                raise
        finally:
            await self.sandbox.close()

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    def _current_runtime_helper_cache_key(self) -> object | None:
        return self.state.sandbox_id

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        def unavailable(reason: str) -> ExposedPortUnavailableError:
            return ExposedPortUnavailableError(
                port=port,
                exposed_ports=self.state.exposed_ports,
                reason="backend_unavailable",
                context={"backend": "isorun", "reason": reason},
            )

        try:
            url = urlsplit(self.sandbox.url(port))
        except IsorunError as error:
            raise unavailable(str(error)) from error
        if url.path not in ("", "/") or url.hostname is None:
            raise unavailable(
                "the URLs of the server's ports have a path, which an endpoint cannot express: "
                "give the server a domain for them"
            )
        is_secure = url.scheme == "https"
        return ExposedPortEndpoint(url.hostname, url.port or (443 if is_secure else 80), is_secure)

    async def _exec_internal(
        self, *command: str | Path, timeout: float | None = None
    ) -> ExecResult:
        # The root of the workspace is created by the first commands.
        cwd = self.state.manifest.root if self._is_ready else None
        argv = [str(word) for word in command]
        try:
            result = await self._call(*argv, timeout=timeout, cwd=cwd)
        except IsorunTimeoutError as error:
            raise ExecTimeoutError(command=command, timeout_s=timeout, cause=error) from error
        except IsorunError as error:
            raise ExecTransportError(
                command=command,
                message=f"the command could not be run: {error}",
                context={"reason": error.kind or "connection"},
                cause=error,
                retryable=False if is_gone(error) else None,
            ) from error
        stderr = result.stderr
        if result.stdout_truncated or result.stderr_truncated:
            stderr += b"\n[The end of the output is missing: it exceeds the server's limit.]\n"
        return ExecResult(stdout=result.stdout, stderr=stderr, exit_code=result.exit_code)

    async def _read_bounded(self, path: Path, *, max_bytes: int) -> bytes:
        return (await self._read(path, None, max_bytes))[:max_bytes]

    async def _read(self, path: Path, user: str | User | None, max_bytes: int | None) -> bytes:
        if user is None:
            checked = await self._validate_path_access(path)
        else:
            checked = await self._check_read_with_exec(path, user=user)
        name = sandbox_path_str(checked)
        if max_bytes is not None:
            result = await self._call(
                "sh", "-c", '[ -f "$1" ] || exit 44; head -c "$2" < "$1"', "sh", name,
                str(max_bytes),
            )  # fmt: skip
            if result.exit_code == 0:
                return result.stdout
        try:
            return await self.sandbox.download(name)
        except IsorunError as error:
            if error.kind == "file_not_found":
                raise WorkspaceReadNotFoundError(path=path, cause=error) from error
            raise WorkspaceArchiveReadError(
                path=path, context={"reason": str(error)}, cause=error
            ) from error

    async def _call(
        self, *argv: str, timeout: float | None = None, cwd: str | None = None
    ) -> ExecBytesResult:
        """Runs a program, also one that is missing, which is the exit code 127."""
        try:
            return await self.sandbox.exec_bytes(argv, timeout=timeout or 0, cwd=cwd)
        except IsorunError as error:
            if error.kind not in ("command_not_found", "invalid_request"):
                raise
        # It was not started, so it is safe to let a shell try it, which reports the reason.
        shell = ["/bin/sh", "-c", 'exec "$@"', "sh", *argv]
        return await self.sandbox.exec_bytes(shell, timeout=timeout or 0, cwd=cwd)

    @asynccontextmanager
    async def _staged(self, content: bytes) -> AsyncIterator[str]:
        """Writes a file for a command that reads it, which is removed at the end of the block."""
        name = f"/tmp/.isorun-{secrets.token_hex(16)}"
        try:
            await self.sandbox.write_bytes(name, content)
            yield name
        finally:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        try:
            await self.sandbox.exec(["rm", "-f", name])
        except IsorunError:
            # The sandbox is gone, and the file with it; or the error of the operation is raised.
            pass


class IsorunSandboxClient(BaseSandboxClient[IsorunSandboxClientOptions]):
    """Creates, resumes and deletes sessions in sandboxes on an isorun server."""

    backend_id = "isorun"
    supports_default_options = True

    def __init__(
        self,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        credentials: dict[str, Any] | None = None,
        instrumentation: Instrumentation | None = None,
        dependencies: Dependencies | None = None,
    ) -> None:
        """
        :param api_url: that of `AsyncSandbox`, like the next two. They are not part of the state
            of a session.
        """
        self._api_url, self._api_key = api_url, api_key
        self._credentials = credentials
        self._instrumentation = instrumentation or Instrumentation()
        self._dependencies = dependencies

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: IsorunSandboxClientOptions | None = None,
    ) -> SandboxSession:
        options = options or IsorunSandboxClientOptions()
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        session_id = uuid.uuid4()
        snapshot_base = resolve_snapshot(snapshot, str(session_id))
        sandbox = await self._create(options, manifest)
        try:
            state = IsorunSandboxSessionState(
                session_id=session_id,
                manifest=manifest,
                snapshot=snapshot_base,
                exposed_ports=options.exposed_ports,
                sandbox_id=str(sandbox.id),
                options=options,
            )
            session = IsorunSandboxSession(sandbox, state)
            return self._wrap_session(session, instrumentation=self._instrumentation)
        except BaseException:
            # No caller knows it, so none could delete it.
            await sandbox.destroy()
            raise

    async def delete(self, session: SandboxSession) -> SandboxSession:
        inner = session._inner
        if not isinstance(inner, IsorunSandboxSession):
            raise TypeError(f"the session is a {type(inner).__name__}, not one of this client")
        try:
            await inner.sandbox.destroy()
        except IsorunError as error:
            if error.kind not in ("run_destroyed", "run_not_found"):
                raise
        finally:
            await inner.sandbox.close()
        return session

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        if not isinstance(state, IsorunSandboxSessionState):
            raise TypeError(f"the state is a {type(state).__name__}, not one of this client")
        state.assert_path_grants_rebound()
        try:
            sandbox = await AsyncSandbox.connect(
                state.sandbox_id, api_url=self._api_url, api_key=self._api_key
            )
        except IsorunError as error:
            if not is_gone(error):
                raise
            # `start` fills the new one from the snapshot of the workspace, if there is one.
            sandbox = await self._create(state.options, state.manifest)
            state.sandbox_id = str(sandbox.id)
            state.workspace_root_ready = False
            is_preserved = False
        else:
            is_preserved = True
        session = IsorunSandboxSession(sandbox, state)
        session._set_start_state_preserved(is_preserved)
        return self._wrap_session(session, instrumentation=self._instrumentation)

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        return self._deserialize_session_state_payload(payload, IsorunSandboxSessionState)

    async def _create(
        self, options: IsorunSandboxClientOptions, manifest: Manifest
    ) -> AsyncSandbox:
        given = {name: getattr(options, name) for name in type(options).model_fields}
        del given["type"], given["exposed_ports"]
        sandbox = AsyncSandbox(
            **given,
            env=await manifest.environment.resolve(),
            credentials=self._credentials,
            on_idle="hibernate",
            auto_resume=True,
            api_url=self._api_url,
            api_key=self._api_key,
        )
        await sandbox.create()
        return sandbox
