"""Awaiting what the native half does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from . import _native

Done = Callable[[Any, "BaseException | None"], None]


def callback(future: asyncio.Future[Any]) -> Done:
    """A callback that settles a future."""

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
    """Waits for the end of something that is closed, which comes also if the
    waiting task is cancelled."""
    task = asyncio.ensure_future(closing)
    # The event loop alone would let go of it.
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.shield(task)


async def call(
    begin: Callable[[asyncio.AbstractEventLoop, Done], _native.Task | str],
) -> Any:
    """Begins something and waits for its end.

    If the waiting task is cancelled the work is given up, and the cancellation
    goes on once the work has stopped: when `CancelledError` arrives, the guest
    no longer runs.
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    task = begin(loop, callback(future))
    if isinstance(task, str):
        # It is done already. Others get their turn all the same.
        await asyncio.sleep(0)
        return task
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        task.cancel()
        await settled(future)
        raise


async def settled(future: asyncio.Future[Any]) -> None:
    """Waits until a future is done, whatever it says and whoever cancels."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        # Nobody is left to be told.
        future.exception()
