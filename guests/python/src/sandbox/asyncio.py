"""Asynchronous helpers: calls to the host, and the event loop."""

import asyncio as _asyncio
import inspect as _inspect

from isola_guest import loop as _loop
from isola_guest import runner as _runner
from isola_guest.loop import DeadlockError
from isola_guest.pending import HostcallError, hostcall
from wit_world.imports.poll import Pollable as _Pollable

__all__ = ["DeadlockError", "HostcallError", "hostcall", "run", "subscribe"]


def run(main):
    """Runs a coroutine to its end, from synchronous code, and returns its result.

    The items of an async generator are sent to the host as partial results.
    Called while a loop is running, it blocks that loop until it returns.
    """
    if _inspect.isawaitable(main):
        return _loop.run(_runner._await(main))
    if hasattr(main, "__aiter__"):
        return _loop.run(_runner._drain(main))
    message = f"run() takes a coroutine or an async generator, not {type(main).__name__}"
    if callable(main):
        message += ": call the function, as in run(main())"
    raise TypeError(message)


async def subscribe(pollable):
    """Waits until a native pollable is ready."""
    if not isinstance(pollable, _Pollable):
        raise TypeError(
            f"subscribe() takes a pollable of wasi:io/poll, not {type(pollable).__name__}"
        )
    await _asyncio.get_running_loop().wait_for_pollable(pollable)
