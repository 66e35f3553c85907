"""A pool of started sandboxes."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, AsyncIterator

from ._errors import ClosedError, InvalidArgumentError, SnapshotError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ._options import SandboxOptions
    from ._sandbox import Sandbox
    from ._snapshot import Snapshot
    from ._template import SandboxTemplate


class SandboxPool:
    """A pool of `size` started sandboxes, each with `script` loaded.

        async with isola.SandboxPool(template, 4, script=SCRIPT) as pool:
            async with pool.sandbox() as sandbox:
                await sandbox.run("main")

    The script runs once: the sandboxes are copies of the one in which it ran, unless
    that cannot be copied because it has a file open. A sandbox is used once and
    closed afterwards, so no state passes from one use to the next. Its replacement
    is created in the background. `sandbox_config` are the options of
    `SandboxTemplate.create`. A pool belongs to one event loop.
    """

    def __init__(
        self,
        template: SandboxTemplate,
        size: int,
        *,
        script: str | None = None,
        **sandbox_config: Unpack[SandboxOptions],
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidArgumentError(f"size is {size!r}: give a number of sandboxes above 0")
        self._template = template
        self._size = size
        self._script = script
        self._config = sandbox_config
        self._warm: deque[asyncio.Task[Sandbox]] = deque()
        # The snapshot from which all sandboxes are restored; `None` if it cannot be taken.
        self._snapshot: asyncio.Task[Snapshot | None] | None = None
        self._closed = False

    @property
    def ready(self) -> int:
        """The number of sandboxes that are available immediately."""
        return sum(task.done() for task in self._warm)

    async def warm(self) -> None:
        """Waits until all sandboxes are started. Fails if one cannot be started."""
        self._fill()
        while pending := [task for task in self._warm if not task.done()]:
            await asyncio.wait(pending)
        for task in self._warm:
            error = task.exception()
            if error is not None:
                raise error

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[Sandbox]:
        """Returns a started sandbox for one use, closed at the end of the block.

        If none is available, this waits for one that is being started.
        """
        self._fill()
        # Prefers a sandbox that has been started.
        task = next((task for task in self._warm if task.done()), self._warm[0])
        self._warm.remove(task)
        self._fill()
        try:
            sandbox = await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        try:
            yield sandbox
        finally:
            await sandbox.aclose()

    def _fill(self) -> None:
        if self._closed:
            raise ClosedError("the pool is closed")
        loop = asyncio.get_running_loop()
        while len(self._warm) < self._size:
            self._warm.append(loop.create_task(self._start()))

    async def _start(self) -> Sandbox:
        if self._snapshot is None or _failed(self._snapshot):
            self._snapshot = asyncio.get_running_loop().create_task(self._take_snapshot())
        # Several tasks wait for it, so the cancellation of one must not cancel it.
        snapshot = await asyncio.shield(self._snapshot)
        if snapshot is None:
            return await self._create()
        return await self._template.restore(snapshot, **self._config)

    async def _take_snapshot(self) -> Snapshot | None:
        sandbox = await self._create()
        try:
            return await sandbox.snapshot()
        except SnapshotError:
            return None
        finally:
            await sandbox.aclose()

    async def _create(self) -> Sandbox:
        sandbox = await self._template.instantiate(**self._config)
        try:
            await sandbox.start()
            if self._script is not None:
                await sandbox.load_script(self._script)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    async def aclose(self) -> None:
        """Closes the pool and its unused sandboxes. Closing again has no effect."""
        self._closed = True
        if self._snapshot is not None:
            self._snapshot.cancel()
            await asyncio.gather(self._snapshot, return_exceptions=True)
        while self._warm:
            task = self._warm.popleft()
            task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(outcome, BaseException):
                await outcome.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.warm()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _failed(task: asyncio.Task[Snapshot | None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
