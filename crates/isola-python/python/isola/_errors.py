"""The exceptions of the package."""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class GuestException:
    """An exception that guest code did not catch. All texts are controlled by the guest."""

    name: str
    """The name of its type, such as `ValueError`."""
    message: str
    traceback: str
    """The traceback (Python) or stack (JavaScript) of guest code, or empty."""


class IsolaError(Exception):
    """The base class of all errors of this package.

    `code` is stable: programs may depend on it. `exception` is the guest's
    exception, if it caused the error.
    """

    code: str = "internal"
    exception: GuestException | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        exception: GuestException | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.exception = exception

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), str(self), self.code, self.exception)


class InvalidArgumentError(IsolaError):
    """An argument, option or value of the caller is invalid."""

    code = "invalid_argument"


class InternalError(IsolaError):
    """A bug in isola, or a failure of the host system, such as a full disk or a fork."""

    code = "internal"


class GuestError(IsolaError):
    """An error of the guest: an exception that its code did not catch.

    The base class of `HostcallError` and `CrashError`.
    """

    code = "guest_exception"


class HostcallError(GuestError):
    """A hostcall failed, and the guest did not catch the error."""

    code = "hostcall_failed"


class CrashError(GuestError):
    """The guest's interpreter terminated. The sandbox is closed."""

    code = "crash"


class LimitError(IsolaError):
    """A limit was exceeded; `code` identifies it."""


class BusyError(IsolaError):
    """The sandbox is running another operation."""

    code = "busy"


class NotRunningError(IsolaError):
    """The sandbox was not started."""

    code = "not_running"


class NotPendingError(IsolaError):
    """The sandbox was started already."""

    code = "not_pending"


class ClosedError(IsolaError):
    """The sandbox, context or pool is closed; the message contains the reason."""

    code = "closed"


SandboxClosedError = ClosedError
"""An older name of `ClosedError`."""


class SnapshotError(IsolaError):
    """The sandbox cannot be copied, or the snapshot cannot be restored here."""

    code = "snapshot_refused"


class FileError(IsolaError, OSError):
    """An operation of the caller on the files of a sandbox failed.

    It is an `OSError`, with `errno` and `filename`, and of the class that Python has for
    the error number: a missing file is also a `FileNotFoundError`.
    """

    code = "file"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        exception: GuestException | None = None,
        errno: int | None = None,
        filename: str | None = None,
    ) -> None:
        super().__init__(message, code=code, exception=exception)
        self.errno = errno
        self.filename = filename

    def __str__(self) -> str:
        # `OSError` shows the number and the name, which the message contains already.
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_file_error, (str(self), self.errno, self.filename)


class _MissingFileError(FileError, FileNotFoundError):
    pass


class _ExistingFileError(FileError, FileExistsError):
    pass


class _NoDirectoryError(FileError, NotADirectoryError):
    pass


class _DirectoryError(FileError, IsADirectoryError):
    pass


_FILE_ERRORS: dict[int | None, type[FileError]] = {
    errno.ENOENT: _MissingFileError,
    errno.EEXIST: _ExistingFileError,
    errno.ENOTDIR: _NoDirectoryError,
    errno.EISDIR: _DirectoryError,
}
for _kind in _FILE_ERRORS.values():
    # Users know them by the name of their public class.
    _kind.__name__ = _kind.__qualname__ = "FileError"


class DownloadError(IsolaError):
    """A runtime could not be downloaded, or the download was rejected."""

    code = "download_failed"


class StreamFullError(IsolaError):
    """A `StreamArg` holds as many values as its capacity, because the guest is slower."""

    code = "stream_full"


class StreamClosedError(IsolaError):
    """A `StreamArg` or a body is closed: it was ended, or its call has ended."""

    code = "stream_closed"


CLASSES: dict[str, type[IsolaError]] = {
    "guest_exception": GuestError,
    "hostcall_failed": HostcallError,
    "crash": CrashError,
    "memory_limit": LimitError,
    "cpu_time_limit": LimitError,
    "wall_time_limit": LimitError,
    "value_size_limit": LimitError,
    "output_limit": LimitError,
    "recursion_limit": LimitError,
    "handle_limit": LimitError,
    "download_failed": DownloadError,
    "download_refused": DownloadError,
    "snapshot_refused": SnapshotError,
    "invalid_argument": InvalidArgumentError,
    "file": FileError,
    "busy": BusyError,
    "not_running": NotRunningError,
    "not_pending": NotPendingError,
    "closed": ClosedError,
    "internal": InternalError,
    "stream_closed": StreamClosedError,
    "stream_full": StreamFullError,
}


def from_native(
    code: str,
    message: str,
    exception: tuple[str, str, str] | None,
    file: tuple[str, str] | None = None,
) -> IsolaError:
    """Creates the exception for an error of the native module.

    `file` is the name of the error number and the path of an operation on a file.
    """
    if file is not None:
        number: int | None = getattr(errno, file[0], None)
        return _rebuild_file_error(message, number, file[1])
    guest = None if exception is None else GuestException(*exception)
    return CLASSES.get(code, IsolaError)(message, code=code, exception=guest)


def _rebuild(
    kind: type[IsolaError], message: str, code: str, exception: GuestException | None
) -> IsolaError:
    return kind(message, code=code, exception=exception)


def _rebuild_file_error(message: str, number: int | None, path: str | None) -> FileError:
    return _FILE_ERRORS.get(number, FileError)(message, errno=number, filename=path)
