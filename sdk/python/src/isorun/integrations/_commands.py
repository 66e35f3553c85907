"""Commands that are lists of arguments, with the exit codes of a shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError
from .._types import ExecResult

# Errors of the server for a program that it did not start.
NOT_STARTED = frozenset({"command_not_found", "invalid_request"})


async def exec_argv(
    sandbox: AsyncSandbox,
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: str | None = None,
) -> ExecResult:
    """Runs a program. One that is missing is the exit code 127, and one that may not be executed
    is 126, with the message of the shell.

    :raises IsorunError: also if the program exists, but the working directory does not.
    :raises ValueError: an argument has a NUL character.
    """
    if any("\0" in argument for argument in argv):
        raise ValueError("the command has a NUL character, which Linux does not allow")
    try:
        return await sandbox.exec(list(argv), timeout=timeout, env=env, cwd=cwd, stdin=stdin)
    except IsorunError as error:
        if error.kind not in NOT_STARTED:
            raise
    # It was not started, so it is safe to let a shell try it, which reports the reason.
    shell = ["/bin/sh", "-c", 'exec "$@"', "sh", *argv]
    return await sandbox.exec(shell, timeout=timeout, env=env, cwd=cwd, stdin=stdin)
