"""An environment of mini-SWE-agent in a sandbox.

    mini --environment-class isorun.integrations.mini_swe_agent.IsorunEnvironment

The page `docs/integrations/mini-swe-agent.md` says what maps to what.
"""

from __future__ import annotations

import logging
import os
import platform
from types import TracebackType
from typing import Any

from .._errors import IsorunConnectionError, IsorunError, IsorunTimeoutError
from .._sandbox import Sandbox
from ._connection import is_gone
from ._missing import framework_missing
from ._options import SandboxOptions

try:
    from minisweagent.exceptions import Submitted
    from minisweagent.utils.serialize import recursive_merge
    from pydantic import BaseModel, Field
except ImportError as error:
    raise framework_missing(__name__, "mini-swe-agent", error) from error

# The line by which an agent says that the rest of the output is its answer.
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"

# What `get_template_vars` says about the machine of the commands.
_UNAME = ("system", "node", "release", "version", "machine")


class IsorunEnvironmentConfig(BaseModel):
    """The configuration of an `IsorunEnvironment`."""

    image: str = "python:3.12"
    """The image of the sandbox."""
    cwd: str = ""
    """The directory in which commands start, which is created if it is missing; by default that
    of the image."""
    env: dict[str, str] = {}
    """Environment variables of the commands."""
    forward_env: list[str] = []
    """Names of variables of this process that commands get, too. They enter the sandbox: use
    `credentials` of `options` for secrets."""
    timeout: int = 30
    """The timeout of a command, in seconds."""
    interpreter: list[str] = ["bash", "-c"]
    """The program that runs the command, which is its last argument."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of `Sandbox`, such as `{"mem_mib": 2048}`."""


class IsorunEnvironment:
    """Runs the commands of an agent in a sandbox on an isorun server.

    The constructor creates the sandbox. `cleanup` destroys it, and so does the end of a `with`
    block, and the end of the last reference to the environment.
    """

    def __init__(
        self,
        *,
        config_class: type[IsorunEnvironmentConfig] = IsorunEnvironmentConfig,
        logger: logging.Logger | None = None,
        **kwargs: Any,
    ) -> None:
        """
        :param kwargs: the fields of `IsorunEnvironmentConfig`.
        """
        self._sandbox: Sandbox | None = None
        self.logger = logger or logging.getLogger("minisweagent.environment")
        self.config = config_class(**kwargs)
        unknown = sorted(set(self.config.options) - set(SandboxOptions.__annotations__))
        if unknown:
            known = ", ".join(SandboxOptions.__annotations__)
            raise ValueError(f"unknown options {', '.join(unknown)}: the known ones are {known}")
        # Models may take long to answer, and the agent may wait for a person.
        options: dict[str, Any] = {"sandbox_timeout": 2 * 60 * 60, **self.config.options}
        sandbox = Sandbox(self.config.image, **options)
        sandbox.create()
        self._sandbox = sandbox
        self.logger.info("Created the sandbox %s", sandbox.id)
        try:
            self._make_directory()
            self._uname = self._ask_uname()
        except BaseException:
            self.cleanup()
            raise

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox, for operations that environments lack: forks, snapshots, files."""
        if self._sandbox is None:
            raise IsorunError("the environment was cleaned up: create another one")
        return self._sandbox

    def execute(
        self, action: dict[str, Any], cwd: str = "", *, timeout: int | None = None
    ) -> dict[str, Any]:
        """Runs the `command` of an action, and returns its output and `returncode`.

        A command that took too long, or that could not be started, is a `returncode` of -1.

        :raises Submitted: the output is the agent's answer.
        :raises IsorunError: the sandbox is gone, or the server is.
        """
        forwarded = {
            name: os.environ[name] for name in self.config.forward_env if name in os.environ
        }
        sandbox = self.sandbox
        try:
            result = sandbox.exec(
                # Standard error is at its place in the output.
                ["/bin/sh", "-c", 'exec "$@" 2>&1', "sh", *self.config.interpreter,
                 action.get("command", "")],
                timeout=timeout or self.config.timeout,
                env=forwarded | self.config.env,
                cwd=cwd or self.config.cwd or None,
            )  # fmt: skip
        except IsorunError as error:
            if is_gone(error) or isinstance(error, IsorunConnectionError):
                # No further command can succeed. The agent saves its trajectory and ends.
                raise
            output = ""
            if isinstance(error, IsorunTimeoutError):
                output = error.stdout + error.stderr
            return {
                "output": output,
                "returncode": -1,
                "exception_info": f"An error occurred while executing the command: {error}",
                "extra": {"exception_type": type(error).__name__, "exception": str(error)},
            }
        output = result.stdout + result.stderr
        if result.exit_code == 0:
            _raise_if_submitted(output)
        note = ""
        if result.stdout_truncated or result.stderr_truncated:
            note = "The end of the output is missing: it exceeds the limit of the server."
        return {"output": output, "returncode": result.exit_code, "exception_info": note}

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """Returns the variables of the agent's templates: the configuration, and `uname` of the
        sandbox."""
        merged: dict[str, Any] = recursive_merge(self._dump(), self._uname, kwargs)
        return merged

    def serialize(self) -> dict[str, Any]:
        """Returns what the trajectory of the agent says about the environment."""
        kind = type(self)
        return {
            "info": {
                "config": {
                    "environment": self._dump(),
                    "environment_type": f"{kind.__module__}.{kind.__name__}",
                }
            }
        }

    def cleanup(self) -> None:
        """Destroys the sandbox. Further calls do nothing."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is None:
            return
        try:
            sandbox.destroy()
        except IsorunError as error:
            if error.kind not in ("run_destroyed", "run_not_found"):
                self.logger.warning("Cannot destroy the sandbox %s: %s", sandbox.id, error)
        finally:
            sandbox.close()

    def __enter__(self) -> IsorunEnvironment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cleanup()

    def __del__(self) -> None:
        # The constructor may have failed before it set anything.
        if getattr(self, "_sandbox", None) is not None:
            self.cleanup()

    def _dump(self) -> dict[str, Any]:
        # Credentials and the API key of the server are secrets: neither prompts
        # nor trajectories contain them.
        dumped = self.config.model_dump(mode="json", exclude={"options"})
        public = {
            name: value
            for name, value in self.config.options.items()
            if name not in ("credentials", "api_key", "api_url")
        }
        return dumped | {"options": public}

    def _make_directory(self) -> None:
        """Creates the directory in which commands start, if it is missing."""
        if not self.config.cwd:
            return
        script = '[ -d "$1" ] || mkdir -p "$1"'
        result = self.sandbox.exec(["/bin/sh", "-c", script, "sh", self.config.cwd])
        if not result.ok:
            raise IsorunError(
                f"the directory {self.config.cwd!r} cannot be created: {result.stderr.strip()}"
            )

    def _ask_uname(self) -> dict[str, str]:
        """Returns `platform.uname()` of the sandbox."""
        result = self.sandbox.exec("for o in s n r v m; do uname -$o; done")
        lines = result.stdout.splitlines()
        if not result.ok or len(lines) != len(_UNAME):
            # The image has no `uname`. Sandboxes have the architecture of the server, and Linux.
            lines = ["Linux", "", "", "", platform.machine()]
        return dict(zip(_UNAME, lines))


def _raise_if_submitted(output: str) -> None:
    lines = output.lstrip().splitlines(keepends=True)
    if not lines or lines[0].strip() != _SUBMIT:
        return
    submission = "".join(lines[1:])
    raise Submitted(
        {
            "role": "exit",
            "content": submission,
            "extra": {"exit_status": "Submitted", "submission": submission},
        }
    )
