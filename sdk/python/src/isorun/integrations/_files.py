"""Reading and writing files with the errors of Python, for both halves of the package.

The steps are generators without any I/O, which `run` and `arun` carry out.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .._async_sandbox import AsyncSandbox
from .._errors import IsorunError
from .._sandbox import Sandbox
from ._paths import PathState, os_error, parse_probe, probe_command

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A call of a method of a sandbox."""

    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


Steps = Generator[Step, Any, T]


def run(steps: Steps[T], sandbox: Sandbox) -> T:
    """Carries out steps in a sandbox."""
    try:
        step = next(steps)
        while True:
            try:
                answer = getattr(sandbox, step.method)(*step.arguments, **step.options)
            except IsorunError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(steps: Steps[T], sandbox: AsyncSandbox) -> T:
    """Carries out steps in a sandbox, for asyncio."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await getattr(sandbox, step.method)(*step.arguments, **step.options)
            except IsorunError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def is_root() -> Steps[bool]:
    """Returns whether commands run as root, to whom permissions do not apply."""
    result = yield Step("exec", ("id -u",))
    # Without the program `id` every operation asks the shell about permissions.
    return bool(result.stdout == "0\n")


def read(path: str, as_root: bool, max_bytes: int | None = None) -> Steps[bytes]:
    """Reads a file.

    :param as_root: what `is_root` returned.
    :param max_bytes: that of `download`.
    :raises OSError: the exception that `open` would raise for the user who runs commands.
    """
    if not as_root and (error := (yield from _probe(path)).read_error(path)):
        raise error
    try:
        content: bytes = yield Step("download", (path,), {"max_bytes": max_bytes})
        return content
    except IsorunError as failure:
        error = yield from _reason(failure, path, is_read=True)
        if error is None:
            raise
        raise error from failure


def write(path: str, content: bytes, as_root: bool) -> Steps[None]:
    """Writes a file, and creates the parent directories.

    The parameter and the exceptions are those of `read`.
    """
    if not as_root and (error := (yield from _probe(path)).write_error(path)):
        raise error
    try:
        yield Step("write_bytes", (path, content))
    except IsorunError as failure:
        error = yield from _reason(failure, path, is_read=False)
        if error is None:
            raise
        raise error from failure


def _probe(path: str) -> Steps[PathState]:
    result = yield Step("exec", (probe_command(path),))
    try:
        return parse_probe(result.stdout)
    except ValueError as error:
        raise IsorunError(f"{error}: {result.stderr.strip()}") from error


def _reason(failure: IsorunError, path: str, *, is_read: bool) -> Steps[OSError | None]:
    """Returns the exception for a file that the server could not read or write, or `None` if
    the error is not about the file."""
    if failure.kind == "file_not_found":
        return os_error(errno.ENOENT, path)
    if failure.kind == "sandbox_full":
        return os_error(errno.ENOSPC, path)
    if failure.kind != "file_error":
        return None
    state = yield from _probe(path)
    error = state.read_error(path) if is_read else state.write_error(path)
    # Otherwise it is one that a shell cannot tell, such as a loop of symbolic links.
    return error or OSError(errno.EIO, str(failure), path)
