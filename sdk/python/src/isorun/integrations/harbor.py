"""An environment of Harbor, whose trials run in sandboxes.

    harbor run --path task --agent oracle --env isorun.integrations.harbor:IsorunEnvironment

The page `docs/integrations/harbor.md` says what maps to what.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import _protocol
from .._async_sandbox import AsyncSandbox
from .._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from .._http import CHUNK_BYTES, map_errors, timeouts
from .._sandbox import Sandbox
from .._types import ExecResult as IsorunResult
from ._anyloop import BoundedStream, noted
from ._commands import NOT_STARTED
from ._connection import SCRIPT_TIMEOUT, is_gone
from ._missing import framework_missing
from ._paths import os_error
from ._users import as_user, refusal

try:
    from harbor.environments.base import BaseEnvironment, ExecResult
    from harbor.environments.capabilities import (
        EnvironmentCapabilities,
        EnvironmentResourceCapabilities,
    )
    from harbor.environments.definition import should_use_prebuilt_docker_image
    from harbor.environments.options import EnvironmentOptions
    from harbor.environments.tar_transfer import (
        extract_dir_from_file,
        pack_dir_to_file,
        tar_pack_succeeded,
    )
    from harbor.models.task.config import NetworkMode, NetworkPolicy
    from harbor.models.trial.config import ResourceMode
    from pydantic import Field
except ImportError as error:
    raise framework_missing(__name__, "harbor", error) from error

# Linux allows an argument of 128 KiB. A longer command is run from a file.
_MAX_ARGUMENT_BYTES = 120_000

# The number of characters of each stream that a result contains at most if the output is
# streamed. Otherwise the server limits it.
_MAX_STREAMED_CHARS = 8 << 20

# The timeout of `tar` in a sandbox, in seconds.
_TAR_TIMEOUT = 600.0

# The time in seconds for which a cancelled start waits for the sandbox that it must destroy.
_ABANDON_TIMEOUT = 20.0

# The exit code of the command `timeout`, for a command that took too long.
_EXIT_TIMEOUT = 124
_EXIT_NOT_FOUND = 127
# The exit code of `_PACK` for a directory that does not exist.
_EXIT_NO_DIRECTORY = 44

_ROOT = ("root", "0")

_ATTACH = 'isorun exec --tty "$1"; isorun rm "$1"'
_PROBE = "id -u && { command -v bash || echo /bin/sh; }"
_MAKE_DIRECTORY = 'mkdir -p "$1"'
_PACK = f'[ -d "$2" ] || exit {_EXIT_NO_DIRECTORY}; tar -c -f "$1" -C "$2" .'
# With `-o` the files belong to root, not to the number of a user of the other machine.
_UNPACK = 'mkdir -p "$2" && tar -x -o -f "$1" -C "$2"'


class IsorunOptions(EnvironmentOptions):
    """The options of the environment, which `--environment-kwarg` of `harbor run` sets.

    Harbor writes them to the files of a trial, so the API key is not one of them.
    """

    api_url: str | None = None
    """The URL of the server; by default `ISORUN_API_URL`, or that of this machine's server."""
    sandbox_timeout: float = 6 * 60 * 60
    """The time without activity, in seconds, after which a sandbox is destroyed: also one whose
    trial was interrupted."""
    max_download_mib: int = Field(4096, ge=1)
    """The size of a file, or of the archive of a directory, that is downloaded at most."""


class IsorunEnvironment(BaseEnvironment):
    """An environment that is a sandbox on an isorun server."""

    options_model = IsorunOptions
    options: IsorunOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sandbox: AsyncSandbox | None = None
        """The sandbox while the environment is started, for operations that environments lack:
        forks, snapshots, URLs of ports."""
        self._shell = "/bin/sh"

    @staticmethod
    def type() -> str:
        return "isorun"

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(
            disable_internet=True,
            network_allowlist=True,
            network_allowlist_hostnames=True,
            network_allowlist_wildcard_hostnames=True,
            network_allowlist_ipv4_addresses=True,
            network_allowlist_ipv4_cidrs=True,
            dynamic_network_policy=True,
        )

    @classmethod
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        return EnvironmentResourceCapabilities(cpu_limit=True, memory_limit=True)

    @classmethod
    def preflight(cls, kwargs: dict[str, Any] | None = None) -> None:
        super().preflight(kwargs)
        options = IsorunOptions.model_validate(kwargs or {})
        try:
            Sandbox.snapshots(api_url=options.api_url)
        except IsorunError as error:
            raise SystemExit(f"the environment isorun cannot be used: {error}") from error

    async def start(self, force_build: bool) -> None:
        if self.sandbox is not None:
            raise RuntimeError("the environment is started already: stop it first")
        image = self.task_env_config.docker_image
        if image is None or not should_use_prebuilt_docker_image(
            self.environment_dir, docker_image=image, force_build=force_build
        ):
            raise ValueError(
                f"{self.environment_dir / 'Dockerfile'} cannot be built: start without "
                "`force_build`, which uses `docker_image` of the task"
            )
        sandbox = AsyncSandbox(
            image,
            vcpus=self._vcpus(),
            mem_mib=self._resource_limit_value("memory", auto_mode=ResourceMode.LIMIT),
            disk_mib=self._effective_storage_mb,
            sandbox_timeout=self.options.sandbox_timeout,
            api_url=self.options.api_url,
            **_egress(self.network_policy),
        )
        await _create(sandbox)
        self.sandbox = sandbox
        self.logger.debug(f"The sandbox of {self.session_id} is {sandbox.id}")
        try:
            await self._prepare(sandbox)
        except BaseException:
            # The error that is raised is that of the start.
            with suppress(IsorunError):
                await self.stop(delete=True)
            raise

    async def stop(self, delete: bool) -> None:
        """Destroys the sandbox, or else hibernates it. If that fails, it can be called again."""
        sandbox = self.sandbox
        if sandbox is None:
            return
        try:
            if delete:
                await sandbox.destroy()
            else:
                await sandbox.hibernate()
                self.logger.info(
                    f"The sandbox {sandbox.id} is hibernated: `isorun resume {sandbox.id}` "
                    f"continues it, and `isorun rm {sandbox.id}` destroys it"
                )
        except IsorunError as error:
            if not is_gone(error) and error.kind != "run_hibernated":
                raise
        finally:
            await sandbox.close()
        self.sandbox = None

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        """Runs a command line of bash, or of `/bin/sh` in an image without bash.

        A command that takes too long is killed; its result has the output until then, and the
        exit code 124. For one that cannot be started it is 127.

        :raises IsorunError: the server or the sandbox failed, or cannot be reached.
        """
        sandbox = self._started()
        variables = self._merge_env(env) or {}
        resolved = self._resolve_user(user)
        name = None if resolved is None or str(resolved) in _ROOT else str(resolved)
        if name is not None:
            # Those of the user are the default.
            given = [key for key in ("HOME", "USER") if key in variables]
            exports = [f"export {key}={shlex.quote(variables[key])}\n" for key in given]
            command = "".join(exports) + command
        try:
            async with self._command_line(sandbox, command) as argv:
                result = await self._run(
                    sandbox,
                    argv if name is None else as_user(name, argv),
                    timeout=timeout_sec or 0,
                    env=variables,
                    cwd=cwd or self.task_env_config.workdir,
                )
        except IsorunTimeoutError as error:
            if error.kind != "exec_timeout":
                raise
            separator = "" if not error.stderr or error.stderr.endswith("\n") else "\n"
            stderr = f"{error.stderr}{separator}{error}\n"
            return ExecResult(stdout=error.stdout, stderr=stderr, return_code=_EXIT_TIMEOUT)
        except IsorunError as error:
            if error.kind not in NOT_STARTED:
                raise
            return ExecResult(stdout="", stderr=f"{error}\n", return_code=_EXIT_NOT_FOUND)
        if name is not None and (reason := refusal(result.exit_code, result.stderr)):
            raise RuntimeError(f"commands cannot run as {name!r}: {reason}")
        stderr = noted(result.stderr, result.stdout_truncated, result.stderr_truncated)
        return ExecResult(stdout=result.stdout, stderr=stderr, return_code=result.exit_code)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        await _upload(self._started(), source_path, target_path)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        """Copies a directory with its permissions and symbolic links into one that may exist."""
        sandbox = self._started()
        with tempfile.TemporaryDirectory() as directory:
            archive = Path(directory) / "archive"
            await asyncio.to_thread(
                pack_dir_to_file, source_dir, archive, compress=False, include_root=False
            )
            async with _temporary_file(sandbox) as staged:
                await _upload(sandbox, archive, staged)
                result = await self._script(sandbox, _UNPACK, staged, target_dir)
        if not result.ok:
            raise RuntimeError(
                f"{source_dir} cannot be uploaded to {target_dir}: {_reason(result)} (the image "
                "needs `tar`)"
            )

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        """Copies a file and its permissions, except that only its owner may write to it. A target
        that exists is replaced at once, when all of the content has arrived."""
        target = Path(target_path)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        partial = target.with_name(f".isorun-{secrets.token_hex(16)}")
        try:
            with _missing_file(source_path):
                await self._download(self._started(), source_path, partial)
            await asyncio.to_thread(os.replace, partial, target)
        finally:
            partial.unlink(missing_ok=True)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        """Copies a directory. Special files, and links that lead out of it, are left out."""
        sandbox = self._started()
        with tempfile.TemporaryDirectory() as directory:
            archive = Path(directory) / "archive"
            async with _temporary_file(sandbox) as staged:
                result = await self._script(sandbox, _PACK, staged, source_dir)
                if result.exit_code == _EXIT_NO_DIRECTORY:
                    raise os_error(errno.ENOENT, source_dir)
                if not tar_pack_succeeded(
                    result.exit_code, stderr=result.stderr, logger=self.logger
                ):
                    raise RuntimeError(
                        f"{source_dir} cannot be downloaded: {_reason(result)} (the image needs "
                        "`tar`)"
                    )
                await self._download(sandbox, staged, archive)
            # It is not compressed, so its content is not larger than the archive.
            await asyncio.to_thread(extract_dir_from_file, archive, target_dir)

    async def attach(self) -> None:
        """Replaces this process by a shell in the sandbox, which is destroyed at its end."""
        sandbox_id = self._started()._running()
        if shutil.which("isorun") is None:
            raise RuntimeError(
                "the command `isorun` is not installed on this machine, or not in PATH"
            )
        variables = dict(os.environ)
        if self.options.api_url is not None:
            variables["ISORUN_API_URL"] = self.options.api_url
        os.execve("/bin/sh", ["sh", "-c", _ATTACH, "sh", sandbox_id], variables)

    def _validate_definition(self) -> None:
        if (self.environment_dir / "docker-compose.yaml").exists():
            raise ValueError(
                f"{self.environment_dir / 'docker-compose.yaml'} cannot be used: an environment "
                "of isorun is one sandbox, without Docker Compose"
            )
        if self.task_env_config.docker_image is None:
            raise ValueError(
                f"the environment {self.environment_dir} has no `docker_image`: isorun does not "
                "build a Dockerfile. Build it with Docker, push the image or give it to the server "
                "with `isorun image import`, and set `docker_image` in task.toml"
            )
        if self._host_mounts:
            targets = ", ".join(mount["target"] for mount in self._host_mounts)
            raise ValueError(
                f"nothing can be mounted at {targets}: isorun does not mount directories of this "
                "machine. Upload them, or put them into the image"
            )

    async def _apply_network_policy(self, network_policy: NetworkPolicy) -> None:
        sandbox = self._started()
        operation = _protocol.set_network(sandbox._running(), **_egress(network_policy))
        await sandbox._transport.send(operation)

    async def _prepare(self, sandbox: AsyncSandbox) -> None:
        """Makes a sandbox what Harbor expects of an environment that has started."""
        image = self.task_env_config.docker_image
        result = await sandbox.exec(_PROBE, timeout=SCRIPT_TIMEOUT)
        lines = result.stdout.splitlines()
        if not result.ok or len(lines) != 2:
            raise RuntimeError(
                f"the image {image} cannot be used: its shell says {_reason(result)} (it "
                "needs `id`)"
            )
        uid, self._shell = lines
        if uid != "0":
            raise RuntimeError(
                f"the user of the image {image} has the number {uid}, but Harbor runs "
                "commands as root: use an image whose user is root, and choose that of the agent "
                "by `user` of `[agent]` in task.toml"
            )
        if (workdir := self.task_env_config.workdir) is not None:
            made = await self._script(sandbox, _MAKE_DIRECTORY, workdir)
            if not made.ok:
                raise RuntimeError(
                    f"the directory {workdir} cannot be created in the sandbox: {_reason(made)}"
                )
        made_logs = await self.ensure_dirs(self._mount_targets(writable_only=True))
        if made_logs is not None and made_logs.return_code != 0:
            raise RuntimeError(
                f"the directories of logs cannot be created in the sandbox: {made_logs.stderr}"
            )
        await self._upload_environment_dir_after_start()

    async def _run(
        self,
        sandbox: AsyncSandbox,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str],
        cwd: str | None,
    ) -> IsorunResult:
        callback = self._output_callback()
        if callback is None:
            return await sandbox.exec(argv, timeout=timeout, env=env, cwd=cwd)

        async def listen(name: str, text: str) -> None:
            await callback(text, "stdout" if name == "stdout" else "stderr")

        command = _protocol.Command(argv, timeout, env, cwd)
        operation = _protocol.execute_stream(sandbox._running(), command)
        return await sandbox._transport.stream(
            operation, BoundedStream(_MAX_STREAMED_CHARS), listen
        )

    @asynccontextmanager
    async def _command_line(
        self, sandbox: AsyncSandbox, command: str
    ) -> AsyncIterator[Sequence[str]]:
        """Returns the program and arguments that run a command line of any length."""
        content = command.encode()
        if len(content) <= _MAX_ARGUMENT_BYTES:
            yield [self._shell, "-c", command]
            return
        async with _temporary_file(sandbox) as staged:
            # The user who runs it may be another one.
            await sandbox.write_bytes(staged, content, mode=0o644)
            yield [self._shell, staged]

    async def _script(self, sandbox: AsyncSandbox, script: str, *arguments: str) -> IsorunResult:
        """Runs a script of the adapter itself, as root in `/`."""
        argv = ["/bin/sh", "-c", script, "sh", *arguments]
        return await sandbox.exec(argv, timeout=_TAR_TIMEOUT, cwd="/")

    async def _download(self, sandbox: AsyncSandbox, source: str, target: Path) -> None:
        """Writes a file of the sandbox to a new file, without holding it in memory."""
        operation = _protocol.download(sandbox._running(), source)
        left = self.options.max_download_mib << 20
        with map_errors(sandbox._target.url):
            async with sandbox._transport._client.stream(
                operation.method, operation.target, timeout=timeouts(operation.read_timeout)
            ) as response:
                if not response.is_success:
                    operation.parse_response(response.status_code, await response.aread())
                mode = int(response.headers.get("x-file-mode", "644"), 8)
                # For its owner it stays readable, and for others it is not writable.
                with open(target, "xb") as file:
                    os.chmod(target, mode & 0o755 | 0o600)
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        left -= len(chunk)
                        if left < 0:
                            raise IsorunError(
                                f"{source} has more than {self.options.max_download_mib} MiB: "
                                "raise `max_download_mib` of the environment, or leave files out",
                                kind="too_large",
                            )
                        await asyncio.to_thread(file.write, chunk)

    def _started(self) -> AsyncSandbox:
        if self.sandbox is None:
            raise RuntimeError("the environment is not started")
        return self.sandbox

    def _vcpus(self) -> int | None:
        cpus = self._resource_limit_value("cpu", auto_mode=ResourceMode.LIMIT)
        # The constructor has refused a fraction.
        return None if cpus is None else int(cpus)


def _egress(policy: NetworkPolicy) -> dict[str, Any]:
    """Returns the options of a sandbox for a network policy."""
    if policy.network_mode == NetworkMode.PUBLIC:
        return {"network_profile": "internet"}
    if not policy.allowed_hosts:
        return {"network_profile": "locked-down"}
    return {"allow": list(policy.allowed_hosts)}


async def _create(sandbox: AsyncSandbox) -> None:
    """Creates a sandbox. If the task is cancelled, no sandbox is left."""
    creating = asyncio.create_task(sandbox.create())
    try:
        await asyncio.shield(creating)
    except asyncio.CancelledError:
        # The server may have created it already, and only its response says which one it is.
        # If the response takes longer, the server sees that the connection ends, and destroys it.
        try:
            await asyncio.wait([creating], timeout=_ABANDON_TIMEOUT)
            if creating.done():
                with suppress(IsorunError):
                    creating.result()
                    await sandbox.destroy()
        finally:
            creating.cancel()
        raise


async def _upload(sandbox: AsyncSandbox, source: Path | str, target: str) -> None:
    try:
        await sandbox.upload_file(source, target)
    except IsorunConnectionError:
        # The server closes the connection if it refuses a request before all of it has arrived.
        # Then the error is the one of a sandbox that is gone.
        await sandbox._transport.send(_protocol.get(sandbox._running()))
        raise


@asynccontextmanager
async def _temporary_file(sandbox: AsyncSandbox) -> AsyncIterator[str]:
    """Returns a name for a file in the sandbox, which is removed at the end of the block."""
    name = f"/tmp/.isorun-{secrets.token_hex(16)}"
    try:
        yield name
    finally:
        # Otherwise the sandbox is gone, and the file with it; or the error of the block is raised.
        with suppress(IsorunError):
            await sandbox.exec(["rm", "-f", name], timeout=SCRIPT_TIMEOUT)


@contextmanager
def _missing_file(path: str) -> Iterator[None]:
    try:
        yield
    except IsorunError as error:
        if error.kind != "file_not_found":
            raise
        raise os_error(errno.ENOENT, path) from error


def _reason(result: IsorunResult) -> str:
    return repr(result.stderr.strip() or result.stdout.strip() or f"exit code {result.exit_code}")
