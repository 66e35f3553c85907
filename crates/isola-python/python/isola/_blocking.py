"""The bridge from `isola.sync` to the asynchronous package: one event loop in a thread of
its own, and functions that block the calling thread until it has done their work."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ._native import check_process

if TYPE_CHECKING:
    from ._options import SandboxOptions, SyncSandboxOptions

_T = TypeVar("_T")


class _Loop:
    """The event loop, and its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def get(self) -> asyncio.AbstractEventLoop:
        # Fails in a forked process, which has the lock and the loop, but not the thread.
        check_process()
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._process = os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="isola-sync", daemon=True
                ).start()
            return self._loop


_LOOP = _Loop()


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine with the context variables of the caller, and returns its result."""
    try:
        loop = _LOOP.get()
    except BaseException:
        work.close()
        raise
    context = contextvars.copy_context()

    async def within() -> _T:
        return await context.run(asyncio.ensure_future, work)

    future = asyncio.run_coroutine_threadsafe(within(), loop)
    try:
        return future.result()
    except BaseException:
        # Stops the guest on Ctrl-C.
        future.cancel()
        raise


def iterate(values: AsyncGenerator[_T, None]) -> Generator[_T, None, None]:
    """Yields the values of an asynchronous generator, and closes it at the end."""

    async def following() -> tuple[_T] | None:
        try:
            return (await anext(values),)
        except StopAsyncIteration:
            return None

    try:
        while (taken := run(following())) is not None:
            yield taken[0]
    finally:
        run(values.aclose())


@contextmanager
def enter(manager: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """Enters an asynchronous context manager for the duration of a block."""
    value = run(manager.__aenter__())
    try:
        yield value
    except BaseException as error:
        if not run(manager.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        run(manager.__aexit__(None, None, None))


def handlers(given: SyncSandboxOptions) -> SandboxOptions:
    """Wraps handlers that are plain functions, so that they run on threads."""
    config = cast("dict[str, Any]", dict(given))
    hostcalls = config.get("hostcalls")
    if isinstance(hostcalls, Mapping):
        config["hostcalls"] = {
            name: _asynchronous(handler) if callable(handler) else handler
            for name, handler in hostcalls.items()
        }
    for option in ("http", "http_handler"):
        if callable(config.get(option)):
            config[option] = _asynchronous(config[option])
    return cast("SandboxOptions", config)


def listener(given: Callable[[_T], object] | None) -> Callable[[_T], object] | None:
    """Wraps a function for events that is a plain function, so that it runs on a thread."""
    return _asynchronous(given) if callable(given) else given


def _asynchronous(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if inspect.iscoroutinefunction(handler):
        return handler

    async def on_a_thread(payload: Any) -> Any:
        result = await asyncio.to_thread(handler, payload)
        return await result if inspect.isawaitable(result) else result

    return on_a_thread
