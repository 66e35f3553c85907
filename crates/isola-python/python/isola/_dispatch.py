"""Handles hostcalls and HTTP requests of a guest, on the event loop of its call."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from . import _native
from ._errors import InvalidArgumentError
from ._http import HttpHandler, HttpxBridge, answer, describe
from ._json import decode
from ._streams import HOSTCALL

if TYPE_CHECKING:
    from ._arguments import StreamArg
    from ._options import HostcallHandler


class Dispatcher:
    """The handlers of one sandbox. The native module calls `hostcall` and `http`."""

    def __init__(
        self,
        hostcalls: Mapping[str, HostcallHandler] | None,
        http: Literal[True] | HttpHandler | None,
    ) -> None:
        self._hostcalls = dict(hostcalls or {})
        for name, handler in self._hostcalls.items():
            if not isinstance(name, str):
                raise InvalidArgumentError(f"hostcalls: the name {name!r} is not a string")
            if not callable(handler):
                raise InvalidArgumentError(f"hostcalls[{name!r}] is not callable")
        if HOSTCALL in self._hostcalls:
            raise InvalidArgumentError(
                f"hostcalls: the name {HOSTCALL!r} is reserved for StreamArg"
            )
        if http is True:
            self._http: HttpHandler | None = HttpxBridge()
        elif http is None or callable(http):
            self._http = http
        else:
            raise InvalidArgumentError(
                f"http is {http!r}: use None, True, or an async function of an HttpRequest"
            )
        self._streams: dict[int, StreamArg] = {}
        self._context = contextvars.copy_context()
        # The event loop itself holds only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(self) -> Dispatcher:
        """Returns a dispatcher with the same handlers, for another sandbox."""
        http: Literal[True] | HttpHandler | None = self._http
        if isinstance(http, HttpxBridge):
            http = True
        return Dispatcher(self._hostcalls, http)

    def enter_call(self) -> None:
        """Captures the context variables of a call that starts, for its handlers."""
        self._context = contextvars.copy_context()

    def open_streams(self, streams: Mapping[int, StreamArg], max_value_size: int) -> None:
        """Allows the guest to read from the streams of a call.

        `max_value_size` is the limit of the sandbox, in bytes.
        """
        self._streams.update(streams)
        for stream in streams.values():
            stream._open(max_value_size)

    def close_streams(self, streams: Mapping[int, StreamArg]) -> None:
        """Closes the streams of a call that has ended."""
        for number, stream in streams.items():
            self._streams.pop(number, None)
            stream._close()

    def hostcall(self, name: str, payload: str, reply: _native.Reply) -> None:
        """Handles a hostcall of the guest. Runs on the event loop."""
        self._start(self._hostcall(name, payload, reply), reply)

    def http(
        self,
        method: str,
        url: str,
        headers: list[tuple[str, str]],
        reader: _native.BodyReader | None,
        length: int | None,
        reply: _native.HttpReply,
    ) -> None:
        """Handles an HTTP request of the guest. Runs on the event loop."""
        handler = self._http
        if handler is None:
            reply.fail("HTTP is disabled for this sandbox")
            return
        work = partial(answer, handler, method, url, headers, reader, length, reply)
        self._start(_guarded(work, reply), reply)

    def _start(
        self, work: Coroutine[Any, Any, None], reply: _native.Reply | _native.HttpReply
    ) -> None:
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] = self._context.copy().run(loop.create_task, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not reply.bind(task.cancel):
            task.cancel()

    async def _hostcall(self, name: str, payload: str, reply: _native.Reply) -> None:
        if name == HOSTCALL:
            await _guarded(partial(self._take, payload, reply), reply)
            return
        handler = self._hostcalls.get(name)
        if handler is None:
            reply.fail(f'the host has no function "{name}"')
            return
        await _guarded(partial(_call_handler, handler, name, payload, reply), reply)

    async def _take(self, payload: str, reply: _native.Reply) -> None:
        number = decode(payload)
        stream = self._streams.get(number) if isinstance(number, int) else None
        if stream is None:
            reply.fail("the stream is closed: its call has ended")
            return
        reply.resolve(await stream._take())

    async def aclose(self) -> None:
        """Closes the connections of the built-in bridge."""
        if isinstance(self._http, HttpxBridge):
            await self._http.aclose()


async def _call_handler(
    handler: Callable[[Any], Any], name: str, payload: str, reply: _native.Reply
) -> None:
    result = handler(decode(payload))
    if inspect.isawaitable(result):
        result = await result
    try:
        text = _native.encode(result)
    except InvalidArgumentError as error:
        reply.fail(f"the result of {name!r}: {error}")
        return
    reply.resolve(text)


async def _guarded(
    work: Callable[[], Coroutine[Any, Any, None]], reply: _native.Reply | _native.HttpReply
) -> None:
    """Runs a handler; its exception fails only the guest's call or request.

    `work` is called here and not earlier: a task that is cancelled before it starts
    does not get here, and a coroutine that is never awaited causes a warning.
    """
    try:
        await work()
    except asyncio.CancelledError:
        reply.fail("the host cancelled the handler")
        raise
    except Exception as error:
        reply.fail(describe(error))
