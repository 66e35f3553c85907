"""A sandbox environment of Inspect, for which `sandbox="isorun"` is enough in a task.

    from inspect_ai import Task
    from inspect_ai.util import SandboxEnvironmentSpec
    from isorun.integrations.inspect_ai import IsorunSandboxConfig

    config = IsorunSandboxConfig(image="python:3.12", mem_mib=2048)
    task = Task(..., sandbox=SandboxEnvironmentSpec("isorun", config))

The page `docs/integrations/inspect-ai.md` says what maps to what.
"""

from __future__ import annotations

import json
import logging
import posixpath
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError, IsorunTimeoutError
from .._types import ExecResult as IsorunResult
from . import _files, _paths
from ._commands import NOT_STARTED, exec_argv
from ._connection import is_gone
from ._missing import framework_missing
from ._users import EXIT_NOT_EXECUTABLE, SYSTEM_PATH, as_user, refusal

try:
    import anyio
    import yaml  # type: ignore[import-untyped]
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.util import (
        ExecResult,
        OutputLimitExceededError,
        SandboxConnection,
        SandboxEnvironment,
        SandboxEnvironmentConfigType,
        SandboxEnvironmentLimits,
        SandboxUnavailableError,
        SandboxUserUnsupportedError,
        sandboxenv,
    )
    from pydantic import BaseModel, Field
except ImportError as error:
    raise framework_missing(__name__, "inspect-ai", error) from error

logger = logging.getLogger(__name__)

CONFIG_FILE = "isorun.yaml"
"""The configuration in the directory of a task that has `sandbox="isorun"`."""

# A request to the server has at most 1 MiB. What is longer goes through a file.
_MAX_INLINE_BYTES = 500_000

_EXIT_NOT_FOUND = 127

_START = 'mkdir -p "$d" 2>/dev/null; cd "$d" && pwd -P && id -u && id -un'


class IsorunSandboxConfig(BaseModel, frozen=True, extra="forbid"):
    """The configuration of a sandbox: an object, or a file in YAML with these fields.

    The fields without a description are the options of `AsyncSandbox`.
    """

    image: str = "python:3.12"
    working_dir: str | None = None
    """The directory of the sample's files, in which commands start; by default that of the
    image."""
    vcpus: int | None = None
    mem_mib: int | None = None
    disk_mib: int | None = None
    sandbox_timeout: float = 6 * 60 * 60
    network_profile: str = "default"
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None
    env: dict[str, str] = Field(default_factory=dict)
    credentials: dict[str, Any] = Field(default_factory=dict, exclude=True, repr=False)
    """They are not written to logs, so an evaluation that is retried from its log lacks them."""

    def __hash__(self) -> int:
        # Samples with the same configuration are initialized together.
        return hash((self.model_dump_json(), json.dumps(self.credentials, sort_keys=True)))

    def options(self) -> dict[str, Any]:
        """Returns the arguments of the constructor of `AsyncSandbox`."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        del given["working_dir"]
        return given


@sandboxenv(name="isorun")
class IsorunSandboxEnvironment(SandboxEnvironment):
    """A sandbox environment that is a sandbox on an isorun server."""

    # The sandboxes of samples that are running or were interrupted. The latter exist until the end
    # of the evaluation, or longer if `--no-sandbox-cleanup` was given.
    _existing: list[IsorunSandboxEnvironment] = []

    def __init__(self, sandbox: AsyncSandbox, directory: str, uid: str, user: str) -> None:
        """
        :param sandbox: the sandbox, which is created.
        :param directory: the absolute path of the working directory.
        :param uid: the number of the user who runs commands by default.
        :param user: the name of that user.
        """
        super().__init__()
        self.sandbox = sandbox
        """The sandbox, for operations that environments lack: forks, snapshots, URLs of ports."""
        self._directory = directory
        self._uid = uid
        self._user = user

    @classmethod
    async def create(
        cls, config: SandboxEnvironmentConfigType | None = None
    ) -> IsorunSandboxEnvironment:
        """Creates a sandbox."""
        wanted = _config(config)
        sandbox = AsyncSandbox(**wanted.options())
        await sandbox.create()
        try:
            command = _paths.assign("d", wanted.working_dir or ".") + _START
            result = await sandbox.exec(command)
            lines = result.stdout.splitlines()
            if not result.ok or len(lines) != 3:
                raise IsorunError(
                    f"the image {wanted.image} cannot be used: its shell says "
                    f"{result.stderr.strip() or result.stdout.strip()!r} (it needs `id`, and a "
                    "working directory)"
                )
            return cls(sandbox, *lines)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _destroy(sandbox)
            raise

    @classmethod
    async def sample_init(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        metadata: dict[str, str],
    ) -> dict[str, SandboxEnvironment]:
        environment = await cls.create(config)
        cls._existing.append(environment)
        return {"default": environment}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        if interrupted:
            return
        for environment in environments.values():
            ours = environment.as_type(IsorunSandboxEnvironment)
            if ours in cls._existing:
                cls._existing.remove(ours)
            await _destroy(ours.sandbox)

    @classmethod
    async def task_cleanup(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, cleanup: bool
    ) -> None:
        # At the end of the evaluation the name is not that of a task.
        left, cls._existing[:] = list(cls._existing), []
        with anyio.CancelScope(shield=True):
            for environment in left:
                if cleanup:
                    await _destroy(environment.sandbox)
                else:
                    await environment.sandbox.close()
        if left and not cleanup:
            commands = (f"inspect sandbox cleanup isorun {each.sandbox.id}" for each in left)
            logger.warning("Sandboxes are left. Destroy them with %s", "; ".join(commands))

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:
        if id is None:
            print("Give the id of a sandbox: `isorun ps` lists them, also those of other programs.")
            return
        await _destroy(await AsyncSandbox.connect(id))

    @classmethod
    def config_files(cls) -> list[str]:
        return [CONFIG_FILE]

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return IsorunSandboxConfig(**config)

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        if user is not None and not self._is_default(user):
            raise NotImplementedError(
                f"only a shell as {self._user}, the user of the image, can be opened"
            )
        try:
            await self.sandbox.exec(["true"])
        except IsorunError as error:
            raise ConnectionError(f"the sandbox cannot be reached: {error}") from error
        return SandboxConnection(
            type="isorun",
            command=f"isorun exec --tty {self.sandbox.id}",
            container=self.sandbox.id,
        )

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        argv = cmd if user is None or self._is_default(user) else self._as_user(user, cmd)
        directory = self._directory if cwd is None else posixpath.join(self._directory, cwd)
        try:
            with _unavailable_if_gone():
                staged, stdin = await self._stage(argv, input)
                result = await exec_argv(
                    self.sandbox, staged, timeout=timeout or 0, env=env, cwd=directory, stdin=stdin
                )
        except IsorunTimeoutError as error:
            # The server has killed the command. It is not tried again, whatever `timeout_retry`
            # says: a part of its effects may have taken place.
            raise TimeoutError(str(error)) from error
        except IsorunError as error:
            if error.kind not in NOT_STARTED:
                raise
            return ExecResult(False, _EXIT_NOT_FOUND, "", f"{error}\n")
        return _checked(result, user)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        content = contents.encode() if isinstance(contents, str) else contents
        with _unavailable_if_gone(), _timeouts():
            steps = _files.write(self._path(file), content, self._uid == "0")
            await _files.arun(steps, self.sandbox)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        try:
            with _unavailable_if_gone(), _timeouts():
                steps = _files.read(self._path(file), self._uid == "0", limit)
                content = await _files.arun(steps, self.sandbox)
        except IsorunError as error:
            if error.kind != "too_large":
                raise
            raise OutputLimitExceededError(
                SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None
            ) from error
        return content.decode() if text else content

    def _path(self, file: str) -> str:
        return "/" + posixpath.normpath(posixpath.join(self._directory, file)).lstrip("/")

    def _is_default(self, user: str) -> bool:
        return user in (self._user, self._uid)

    def _as_user(self, user: str, cmd: Sequence[str]) -> list[str]:
        """Returns the command that runs another one as this user."""
        if self._uid != "0":
            raise SandboxUserUnsupportedError(
                f"commands run as {self._user}, the user of the image, who cannot become {user!r}: "
                "use an image whose user is root"
            )
        return as_user(user, cmd)

    async def _stage(
        self, argv: Sequence[str], input: str | bytes | None
    ) -> tuple[Sequence[str], str | None]:
        """Returns what to run, and the standard input to send with it.

        What a request cannot transport is written to files, which the command removes first.
        """
        size = sum(len(argument.encode()) for argument in argv)
        text = _as_text(input)
        if text is not None and size + len(text.encode()) <= _MAX_INLINE_BYTES:
            return argv, text
        if input is None and size <= _MAX_INLINE_BYTES:
            return argv, None
        name = f"/tmp/.isorun-{secrets.token_hex(16)}"
        lines = [f"PATH={SYSTEM_PATH} rm -f {name}"]
        if input is not None:
            content = input.encode() if isinstance(input, str) else input
            await self.sandbox.write_bytes(f"{name}.in", content, mode=0o600)
            lines += [f"exec <{name}.in", f"PATH={SYSTEM_PATH} rm -f {name}.in"]
        lines.append("exec " + " ".join(shlex.quote(argument) for argument in argv))
        await self.sandbox.write_bytes(name, "\n".join(lines).encode(), mode=0o600)
        return ["/bin/sh", name], None


def _config(config: SandboxEnvironmentConfigType | None) -> IsorunSandboxConfig:
    if config is None:
        return IsorunSandboxConfig()
    if isinstance(config, IsorunSandboxConfig):
        return config
    if not isinstance(config, str):
        raise TypeError(
            f"the configuration is a {type(config).__name__}: give an IsorunSandboxConfig, or the "
            "path of a file"
        )
    try:
        with open(config, encoding="utf-8") as file:
            fields = yaml.safe_load(file)
        return IsorunSandboxConfig(**(fields or {}))
    except FileNotFoundError as error:
        raise PrerequisiteError(
            f"there is no configuration of a sandbox at {config}: give the path of a file in YAML. "
            "For an image alone, use IsorunSandboxConfig(image=...)"
        ) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise PrerequisiteError(
            f"{config} is not a valid configuration of a sandbox: {error}"
        ) from error


def _as_text(input: str | bytes | None) -> str | None:
    """Returns the input as a text, if a request can transport it."""
    if not isinstance(input, bytes):
        return input
    try:
        return input.decode()
    except UnicodeDecodeError:
        return None


def _checked(result: IsorunResult, user: str | None) -> ExecResult[str]:
    """Returns the result of a command, or raises the exception of the framework for it."""
    if user is not None and (reason := refusal(result.exit_code, result.stderr)):
        raise SandboxUserUnsupportedError(f"commands cannot run as {user!r}: {reason}")
    if result.exit_code == EXIT_NOT_EXECUTABLE and "ermission denied" in result.stderr:
        raise PermissionError(result.stderr.strip())
    limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
    for output, is_truncated in (
        (result.stdout, result.stdout_truncated),
        (result.stderr, result.stderr_truncated),
    ):
        content = output.encode()
        if is_truncated or len(content) > limit:
            name = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
            if len(content) <= limit:
                name = f"{len(content)} bytes of the server"
            raise OutputLimitExceededError(name, content[:limit].decode("utf-8", "replace"))
    return ExecResult(result.ok, result.exit_code, result.stdout, result.stderr)


@contextmanager
def _unavailable_if_gone() -> Iterator[None]:
    try:
        yield
    except IsorunError as error:
        if not is_gone(error):
            raise
        raise SandboxUnavailableError(f"the sandbox is gone: {error}") from error


@contextmanager
def _timeouts() -> Iterator[None]:
    try:
        yield
    except IsorunTimeoutError as error:
        raise TimeoutError(str(error)) from error


async def _destroy(sandbox: AsyncSandbox) -> None:
    """Destroys a sandbox, which may be gone. An error is logged: the samples are finished."""
    try:
        await sandbox.destroy()
    except IsorunError as error:
        if error.kind not in ("run_destroyed", "run_not_found"):
            logger.warning("Cannot destroy the sandbox %s: %s", sandbox.id, error)
    finally:
        await sandbox.close()
