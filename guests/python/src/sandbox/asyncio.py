"""Asynchronous helpers: calls to the host, and the event loop under them."""

import asyncio as _asyncio
import inspect as _inspect

from isola_guest import pending as _pending
from isola_guest import runner as _runner
from isola_guest.loop import DeadlockError
from isola_guest.loop import main as _loop
from isola_guest.pending import HostcallError

__all__ = ["DeadlockError", "HostcallError", "hostcall", "run", "subscribe"]


async def hostcall(call_type, payload=None):
    """Calls the function that the host registered as `call_type`.

    Returns what the host returned. Raises `HostcallError`, a `RuntimeError`,
    with the host's message if it refuses or fails.
    """
    return await _pending.hostcall(call_type, payload)


def run(main):
    """Runs a coroutine to its end, from synchronous code, and returns its result.

    The items of an async generator are sent to the host as partial results.
    """
    if _inspect.isasyncgen(main):
        return _loop.run_until_complete(_runner._drain(main))
    return _loop.run_until_complete(_runner._await(main))


async def subscribe(pollable):
    """Waits until a native pollable is ready."""
    await _asyncio.get_running_loop().wait_for_pollable(pollable)
