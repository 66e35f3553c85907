"""The state of both kinds of sandbox, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ._errors import IsorunError
from ._protocol import Options
from ._types import DestroyStats, SandboxInfo


class SandboxBase:
    """A sandbox that is not yet created, running, or destroyed."""

    id: str | None
    """The id that the server gave the sandbox, once it is created."""
    info: SandboxInfo | None
    """The properties that the server returned when it was created."""

    def __init__(self, options: Options, timeout: float, api_url: str) -> None:
        self.id = None
        self.info = None
        self.timeout = timeout
        self._options = options
        self._api_url = api_url.rstrip("/")
        self._stats: DestroyStats | None = None

    def __repr__(self) -> str:
        state = "not created" if self.id is None else self.id
        return f"{type(self).__name__}({self._options.image!r}, {state})"

    def _ensure_new(self) -> None:
        if self.id is not None:
            raise IsorunError(f"{self.id} is created already: create another Sandbox object")

    def _created(self, info: SandboxInfo) -> SandboxInfo:
        self.id, self.info = info.id, info
        return info

    def _running(self) -> str:
        if self.id is None:
            raise IsorunError("the sandbox is not created: use `with`, or call create()")
        if self._stats is not None:
            raise IsorunError(f"{self.id} is destroyed", code=404, kind="run_destroyed")
        return self.id

    def url(self, port: int) -> str:
        """Returns the public URL of a server on a port in the sandbox, which may listen
        on the loopback address. Anyone who knows the URL can use it, without a key.

        :raises IsorunError: public URLs are disabled, on the server or for this sandbox.
        """
        run = self._running()
        if isinstance(port, bool) or not isinstance(port, int) or not 2 <= port <= 65535:
            raise IsorunError(f"{port!r} is not a valid port: give a number from 2 to 65535")
        if self.info is None or not self.info.port_url:
            raise IsorunError(f"{run} has no public URLs: they are disabled")
        path = self.info.port_url.replace("{port}", str(port))
        return f"{self._api_url}{path}" if path.startswith("/") else path

    def _options_of(self, info: SandboxInfo) -> Options:
        """Returns the options of a copy."""
        return replace(
            self._options,
            image=info.image,
            vcpus=info.vcpus,
            mem_mib=info.mem_mib,
            disk_mib=info.disk_mib,
        )

    def _exec_timeout(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _destroyed(self, stats: DestroyStats) -> None:
        self._stats = stats

    def _final_stats(self) -> DestroyStats:
        if self._stats is None:
            raise IsorunError(f"{self.id} is not destroyed")
        return self._stats

    @contextmanager
    def _ignore_destroyed(self, error: BaseException | None) -> Iterator[None]:
        """Ignores the error of a sandbox that was destroyed already, and every error if
        the block itself has failed with `error`."""
        try:
            yield
        except IsorunError as destroy_error:
            if error is None and destroy_error.kind not in ("run_destroyed", "run_not_found"):
                raise
