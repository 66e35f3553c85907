"""What can go wrong, and whose fault it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GuestException:
    """An exception that guest code did not catch. All texts are the guest's choice."""

    name: str
    """The name of its type, such as `ValueError`."""
    message: str
    traceback: str
    """The traceback (Python) or stack (JavaScript) of guest code, or empty."""


class IsolaError(Exception):
    """Base of all errors of this package.

    `code` is stable: programs may depend on it. `exception` is the guest's
    exception, if there is one behind the error.
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
    """The caller's fault: an argument, option or value that cannot be."""

    code = "invalid_argument"


class InternalError(IsolaError):
    """A bug in isola, or trouble with the machine: a full disk, a fork."""

    code = "internal"


class GuestError(IsolaError):
    """The guest's fault: its code raised, a hostcall failed uncaught, or its interpreter crashed."""

    code = "guest_exception"


class LimitError(IsolaError):
    """A limit was hit; `code` says which."""


class SandboxClosedError(IsolaError):
    """The sandbox is closed; the message says why."""

    code = "closed"


class SnapshotError(IsolaError):
    """A sandbox that cannot be copied, or a snapshot that cannot be restored here."""

    code = "snapshot_refused"


class DownloadError(IsolaError):
    """A runtime could not be downloaded, or what came is not what was asked for."""

    code = "download_failed"


class StreamFullError(IsolaError):
    """A `StreamArg` holds as many values as its capacity: the guest is behind."""

    code = "stream_full"


class StreamClosedError(IsolaError):
    """A `StreamArg` or a body takes or gives no more: it was ended, or its call is over."""

    code = "stream_closed"


_CLASSES: dict[str, type[IsolaError]] = {
    "guest_exception": GuestError,
    "hostcall_failed": GuestError,
    "crash": GuestError,
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
    "closed": SandboxClosedError,
    "internal": InternalError,
    "stream_closed": StreamClosedError,
    "stream_full": StreamFullError,
}


def from_native(
    code: str, message: str, exception: tuple[str, str, str] | None
) -> IsolaError:
    """The exception for an error of the native half."""
    guest = None if exception is None else GuestException(*exception)
    return _CLASSES.get(code, IsolaError)(message, code=code, exception=guest)


def _rebuild(
    kind: type[IsolaError], message: str, code: str, exception: GuestException | None
) -> IsolaError:
    return kind(message, code=code, exception=exception)
