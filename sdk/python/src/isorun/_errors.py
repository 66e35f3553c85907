"""The exceptions of the package."""

from __future__ import annotations


class IsorunError(Exception):
    """A request failed: it was invalid, or the server rejected it or failed.

    Many errors share a `code`; `kind` tells them apart, and does not change when the message
    does.
    """

    code: int | None
    """The HTTP status, such as 404. None without a response."""
    kind: str | None
    """The name of the error, such as `run_not_found`: the `code` in the body of the response.
    None without a response, or if it is of a proxy."""

    def __init__(self, message: str, *, code: int | None = None, kind: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind


class IsorunTimeoutError(IsorunError):
    """A command, or another operation, took longer than its timeout."""

    stdout: str
    """The output of the command until then."""
    stderr: str
    """The standard error of the command until then."""

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        kind: str | None = None,
        stdout: str = "",
        stderr: str = "",
    ) -> None:
        super().__init__(message, code=code, kind=kind)
        self.stdout = stdout
        self.stderr = stderr


class IsorunConnectionError(IsorunError):
    """The server cannot be reached, or the connection to it failed."""
