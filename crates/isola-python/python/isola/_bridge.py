"""Awaits operations of the native module."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from . import _native

Done = Callable[[Any, "BaseException | None"], None]


def callback(future: asyncio.Future[Any]) -> Done:
    """Returns a callback that settles a future."""

    def done(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    return done


_closing: set[asyncio.Future[object]] = set()


async def close(closing: Awaitable[object]) -> None:
    """Waits for a close operation, which completes even if the waiting task is
    cancelled."""
    task = asyncio.ensure_future(closing)
    # The event loop holds only a weak reference to it.
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.shield(task)


async def call(
    start: Callable[[asyncio.AbstractEventLoop, Done], _native.Task | str],
) -> Any:
    """Starts an operation and waits for its outcome.

    If the waiting task is cancelled, the operation is cancelled as well, and
    `CancelledError` is raised once it has stopped: the guest no longer runs then.
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    task = start(loop, callback(future))
    if isinstance(task, str):
        # The operation has finished already. Other tasks get a turn all the same.
        await asyncio.sleep(0)
        return task
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        task.cancel()
        await settled(future)
        raise


async def settled(future: asyncio.Future[Any]) -> None:
    """Waits until a future is done, ignoring its outcome and cancellation."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        # Marks an exception as retrieved, since no caller is left to receive it.
        future.exception()
