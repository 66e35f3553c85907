"""What can go wrong, as exceptions."""

from __future__ import annotations


class IsorunError(Exception):
    """A request failed: it was wrong, the server refused it, or had trouble."""

    code: int | None
    """The HTTP status, if the server answered."""
    kind: str | None
    """The server's stable name of the error, such as `run_not_found`."""

    def __init__(self, message: str, *, code: int | None = None, kind: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind


class IsorunTimeoutError(IsorunError):
    """A command, or another operation, took longer than its timeout."""

    stdout: str
    """What the command had printed until then."""
    stderr: str
    """What the command had printed on its standard error until then."""

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
    """The server cannot be reached, or the connection to it broke."""
