"""What both kinds of sandbox remember, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ._errors import IsorunError
from ._protocol import Options
from ._types import DestroyStats, SandboxInfo


class SandboxBase:
    """A sandbox to be, that is, or that was."""

    id: str | None
    """The server's name of it, once it is created."""
    info: SandboxInfo | None
    """What the server said when it was created."""

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

    def _must_be_new(self) -> None:
        if self.id is not None:
            raise IsorunError(f"{self.id} is created already: make another Sandbox")

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
        """The URL of a server that listens on a port inside, on its loopback
        address too. Whoever knows the URL can use it, without a key.

        :raises IsorunError: the server, or whoever made the sandbox, has switched
            such URLs off.
        """
        run = self._running()
        if isinstance(port, bool) or not isinstance(port, int) or not 2 <= port <= 65535:
            raise IsorunError(f"{port!r} is no port: give a number from 2 to 65535")
        if self.info is None or not self.info.port_url:
            raise IsorunError(f"{run} has no public URLs: they are switched off")
        path = self.info.port_url.replace("{port}", str(port))
        return f"{self._api_url}{path}" if path.startswith("/") else path
    def _options_of(self, info: SandboxInfo) -> Options:
        """What a copy is made of."""
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
    def _leaving(self, error: BaseException | None) -> Iterator[None]:
        """Leaving a block: what is gone is gone, and the block's own error counts."""
        try:
            yield
        except IsorunError as trouble:
            if error is None and trouble.kind not in ("run_destroyed", "run_not_found"):
                raise
